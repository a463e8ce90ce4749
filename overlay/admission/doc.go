// Package admission decides for the whole peer who is a member of the overlay, and
// under which name: it verifies the certificate chains that others show, carries the
// authorities' revocation list from member to member, and keeps this peer's own
// certificate valid. On authorities and delegates it also issues certificates and
// invitations. The certificates themselves are those of package membership; here is
// the memory of them, and the protocol.
//
// Its one type is the Roster, which holds this peer's own membership, the list, every
// member whose chain was verified here, and, on an issuer, who has which label.
//
// # Who is a member
//
// A peer is a member while a chain that it has shown holds now: the signatures
// were verified once, its times fit the clock, and the list in force takes none
// of its certificates back. Times and list are looked at each time that somebody
// asks, so a revocation holds everywhere at the moment in which the list is
// adopted, whatever connection or pipe is still being closed. Nobody else in the
// overlay keeps an opinion of its own: the gate and the pipes keep the chain
// that a peer showed them as evidence, and ask the Roster.
//
//	Verify   a chain was shown, in a hello, an offer or an answer
//	Note     a record with a verified chain was read
//	Member   who is this peer? nil if it is no member
//	Current  is it still one that showed this?
//	Check    the same for a pipe or flow that has only the chain
//	Sweep    who has ceased to be one since the last time?
//
// What the Roster remembers of others is bounded. What it forgets is not lost:
// whoever has a connection or pipe has shown a chain with it, which is verified
// again (Config.Shown).
//
// # How one becomes a member
//
// Found makes an overlay and its founder, Enter a provisional member out of a
// token, Resume what was saved. Authorities and delegates confirm: they give the
// label that was asked for, or one like it, to one peer (draft §5, DESIGN
// §14.1). Confirm asks them, AnswerConfirm and AnswerConfirmed answer.
//
// # How one becomes a member again
//
// A certificate lasts 30 days, and nobody serves a peer whose certificate has ended. But
// its hello shows the chain that it had, and proves that it has the key; so whoever gets
// it, and is an issuer or reaches one as it would for itself, answers with a new
// certificate (Readmit), and the peer says hello again with that (TakeReadmission). A
// confirmed member needs no token for 400 days after its end, wherever it has been.
//
// Who was revoked stays out: the list in force counts, and its entries outlast this
// (membership.RevokedFor). A chain below a delegate whose delegation has ended counts
// only at an issuer that has known before who has its label, with which roles and tags, and by which invitation that
// came: whoever was a delegate could have dated it back. A delegate is made one again by an authority only. A provisional
// member, whose chain is its own word, needs a token that admits.
//
// Somebody who comes again and again with an old chain is given the same answer, and is
// refused for a while after a refusal; so many are made members again at a time, and half
// as many of one invitation. All the while they are strangers, and count as such.
//
// # How one takes another key
//
// A member signs with the old key and the new one that it wants to be the new one
// (Rotate), and an authority gives that a certificate of the same name. It is saved before
// anything else happens. The old key is revoked, and the name moves, when that authority
// meets the new one: whoever comes with it has it on its disk. One new key a member at a
// time: what was given before and has not come is revoked when another is asked for, or
// the member is. A delegate gets none while members are known that it has confirmed: what
// a key has signed ends with it.
//
// # One name again and again
//
// A token for a name may be used again and again (membership.InviteOptions.Reuse): by a
// container, say, that keeps nothing. Whoever came last by it has the name. Only the
// authorities confirm those that come by it, as they revoke the key that had the name before,
// 48 times a day at most, and 64 with those of all others and with Rotate. Until one is there who comes is provisional, and the
// name stays with who had it.
//
// # How often a token is used
//
// Who came by which invitation, and when, chains do not say. Each peer remembers it of
// those that it meets (came.go), and who lets a provisional member in asks an issuer
// (uses.go). Verify refuses who comes by an invitation that was used, or has ended; a
// peer that is found out later ends (Config.Ended). Invitations lists what an issuer
// has made, Withdraw ends one.
//
// # The list
//
// The authorities sign the revocation list, as many of them as have to agree; each one has
// a higher number and contains those before it, as long as they matter. Members compare
// ranks when they meet and every twenty seconds with a few of their neighbours, and whoever
// has the newer list sends it (CompareLists, AnswerList). What more authorities have to
// agree on is carried in the same way (council.go).
//
// Two authorities that sign at once, or one that was restored from an older copy of its
// state, make two lists of which neither contains the other. Each authority that is shown a
// list that lacks an entry it knows has one signed with the entries of both. One that has
// begun with what was saved looks once at the list of each member, whatever its number,
// before it tells that member its own. What it cannot see is a list that was replaced
// before, by a member that had none of the entries and was met first.
//
// Of two changes of who rules the overlay that fork all members settle on one by the same
// rule, and say so in the log; but no member gives up a change that it has adopted a day
// ago (settledFor).
//
// Who has the newest list that it was told does not know whether there is a newer one.
// So issuers give assurances: their word that they knew of none at a time. The newest
// travels in hellos and with the comparing of lists, and ListAsOf says as of when a peer
// knows who was revoked. A delegate's word counts as long as the list in force lets it be one.
//
// # Clocks
//
// Members tell each other the time in hellos and refusals. The Roster compares,
// and says so if this machine's clock is wrong, since chains are judged by it. It
// sets no clock.
//
// # Files
//
//	roster.go    the Roster, its own membership, the three ways to begin
//	members.go   other members                          DESIGN §14.1
//	revoke.go    the revocation list and its protocol   DESIGN §14.1
//	policy.go    who may open what at whom: the authorities' word is carried, and not read here
//	council.go   what authorities want, and who they are
//	proposals.go  what they have to agree on first
//	history.go   what they and the issuers have done, as far as this peer has seen it
//	attendance.go  certificates that end while no authority is heard of
//	assurance.go  that there is no newer list
//	issue.go     what authorities and delegates do as issuers      draft §5, DESIGN §14.1
//	registry.go  who has which label, and the journal of that
//	journal.go   layout of its records
//	came.go      who came by which invitation           DESIGN §14.1
//	uses.go      asking who has used one
//	invitations.go  listing and ending them
//	confirm.go   asking to be confirmed                 draft §5, DESIGN §14.1
//	lapsed.go    members whose certificate has ended    DESIGN §14.1
//	messages.go  layout of the confirm protocol
//	network.go   what the Roster needs of the mesh
//	saved.go     what survives a restart
//	rotate.go    another key in the place of one, once or again and again
//	clock.go     clocks that are wrong
package admission

// Package membership decides who belongs to an overlay, and who rules it: authorities,
// tokens, certificate chains, roles and the revocation list. It does no I/O and starts
// nothing; bytes, clock and revocation list are arguments.
//
// Call NewRoot to found, Root.Issuer and Issuer.Invite for a token, ParseToken
// and Token.SelfIssue to join, VerifyChain to judge a peer, Confirm to replace
// a provisional chain, RevocationList.Draft and Draft.Sign for all that authorities say.
//
// # Authorities
//
// An overlay is its founder's key and its domain: its ID is their hash and never changes.
// The founder's key is its first authority. Since then the list of the authorities tells
// what changed: who became one, who was removed, and how many have to agree (the
// threshold). Each change is signed by as many of those before it as the threshold before
// it says, so that whoever has the founder's key can follow them all (charter.go). The rest
// of the list, which is revocations, policy and how long members go on unattended, is
// signed by as many of those there are, or comes with a change that names its hash: so a
// removed authority signs no list any more, whatever its number, and none with the changes
// up to its removal counts where the others are known (Merge).
//
// Two changes after one state are a fork: that with the lower hash counts. Package admission lets a member give up no change that it has known for a
// day.
//
// One authority by itself is an issuer, as the founder was: it invites, confirms and makes
// delegates. What it has signed after its removal, by its own date, never counts, and what
// it has signed before for RetiredFor, or not at all if the change says so.
//
// # Chains
//
//	authority ──> [delegate] ──> invitation ──> provisional member   at once, nobody asked
//	authority ──> [delegate] ──────────────────> confirmed member    ≤30 days
//
// A confirmed chain that has ended makes nobody a member, but whoever has its key can be
// made one again by it, for RenewFor: VerifyLapsed, Readmit. So a list's entries outlast
// both (RevokedFor).
//
// Each link's subject signs the next. Roles, tags, label and expiry only narrow, but
// for one thing: a provisional member may outlast its invitation by Grace. A
// delegate makes no delegates. Layouts stand at chain (chain.go),
// Certificate.appendBody, Token.String and RevocationList; encoding and
// signatures are canon's. The envelope domain strings are
//
//	"idloc-<certificate|possession|revocation|assurance|charter|proposal|withdrawal|rotation|name|contact|x509-root>/1 <overlay ID in hex>"
//
// # Threats
//
//   - A stranger without a token: has no key under the root; every link is
//     verified with the key of the one before, in the overlay's own domain.
//   - The holder of a token: becomes a member with any number of keys until
//     the invitation ends, and, because it writes its own dates, until Grace
//     after, as far as chains tell: that an invitation is used up, or over when its
//     holder comes first, package admission remembers. It cannot take a label, role, tag or lifetime that the token lacks,
//     nor make members of keys it does not hold (proof of possession).
//     RevokeInvitation ends it; RevokeInvited what was confirmed from it too.
//   - A delegate: may confirm wrongly below its roles and tags and until its end, but
//     not as if it had done so before it was one, or later than now;
//     RevokeDelegate voids all it signed. An entry of the list lives as long
//     as the longest certificate that could name its key, also one of a delegate that
//     has not heard of the entry (LongestLife), and as long as that could be renewed
//     after its end (RenewFor): so what has been revoked once is revoked at every later
//     date. A list that gets 50,000 in every year stays below 1 MiB, as what is not new
//     is folded.
//   - A delegate whose delegation has ended: can date back what it signs. None of it makes
//     a member, but VerifyLapsed takes it: whoever readmits asks whether it was known
//     before (package admission).
//   - Who carries bytes: can withhold a newer list, not alter one. One form
//     for each value, so that nothing passes twice under two spellings.
//   - Odd keys: points of small order and second encodings are refused.
//   - An authority, where more have to agree: says nothing alone that counts in a list. It
//     makes members and delegates as it likes, whom the others can revoke.
//   - The only authority, or as many as have to agree: are the overlay.
//   - A token's addresses are hints covered by the checksum only: whoever
//     hands over a token could as well have made another.
//
// A membership that nobody renews ends with its certificate, and with RenewFor after that
// for good.
//
//	file            section
//	overlay.go      DESIGN §8 Membership: root, overlay ID
//	certificate.go  DESIGN §14.1
//	chain.go        DESIGN §14.1
//	lapsed.go       chains that have ended, DESIGN §14.1
//	issuer.go       DESIGN §14.1
//	token.go        DESIGN §8 Membership
//	withdrawal.go   an invitation's end, on the word of who has its token
//	rotation.go     a peer that wants to be another key
//	revocation.go   DESIGN §8 Revocation, §14.1
//	assurance.go    an issuer's word that there is no newer list
//	policy.go       what the authorities say of who may open what
//	charter.go      who the authorities are, and each change of that
//	authorities.go  what a list tells of them
//	motion.go       the list that follows another, for authorities to sign
//	proposal.go     a motion that waits for their signatures
//	recovery.go     an authority's key on paper
//	unattended.go   certificates that end where no authority is heard of
//	folded.go       the part of a long list that is kept short
//	tags.go         what a member is for
//	tlsroot.go      which X.509 root is an authority's (package pki)
//	label.go        RFC 1035 §2.3.4, RFC 1123 §2.1
//	key.go          RFC 8032 §5.1.3
//	errors.go       what can be wrong, and by how much a clock is
package membership

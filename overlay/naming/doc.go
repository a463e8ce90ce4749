// Package naming makes and judges the values of the distributed database in which a
// name is looked up: name records, which say that a peer has a label, contact records,
// which say where it is, user records, which say who is there, and the revocation list.
// It signs and verifies them, says which of several counts, and keeps what a reader has
// to remember so that nobody can serve it an older one. It does no I/O; bytes, clock and
// revocation list are injected.
//
// A writer fills a Record and calls Sign, and puts the value under each of
// Keys. Storers and readers ask a Validator. A reader asks HighWater.Accept
// last, for what only memory can tell.
//
// # Values and keys
//
// A value's first byte is its kind ('N' name, 'C' contact, 'U' user, 'R' revocation
// list), the second its version; layouts stand at the appendBody methods. The
// signature at the end is the peer's, whose key is the last subject of the
// chain inside. A key is "/idloc/" and 64 hex digits. It says neither kind nor
// label; Validate computes from the value's own label, peer or overlay which
// keys the value may stand under, and compares.
//
// # Order
//
// Across peers: confirmed before provisional; the founder's word before a
// delegate's; named before wildcard; the lower serial, which is when the label was
// given; then the lower SHA-256 over overlay ID, label and peer ID. For one peer in
// one class: higher seq, then bytes. rank in order.go says why the class stands
// before seq and why a tombstone keeps its peer's place. A reader that has pinned a
// peer moves by less than that order: on the word of an authority above the one
// that gave the label (HighWater.Accept).
//
// # Users
//
// A user record says that a user of a service, "sip:fred", is at a member (draft §6:
// an address of record). Who may say so is not who came first: a member that has the
// tag user-fred, by the founder's grants or else by its certificate, and the member that
// the founder itself has named "fred" (Validator.MaySay). Everybody who stores or reads one checks
// that. All members that may are the same person's, so nothing decides between them but
// time: there are UserSlots keys for a user, a member takes one that is free, or the
// one that was taken first, and under a key the newest counts.
//
// # Threats
//
//   - Storers may withhold, or serve what was true up to 4 h ago; they cannot
//     alter. HighWater refuses what is older than seen before, across
//     restarts. A reader that never saw the newer record cannot tell.
//
//   - A member may claim only labels of its certificate. Under a wildcard
//     invitation that is any label nobody has a better right to; ties cannot
//     be won for all labels at once, but a key may be ground for one label:
//     only confirmation settles it.
//
//   - A delegate confirms whom it likes under any label. The founder's word
//     stands above it; among delegates the label is whose serial is the lower,
//     which is no earlier than the delegation began (package membership), whatever
//     keys are ground. No reader that has pinned a confirmed holder moves for it.
//
//   - A member lying in its contact misleads about itself only.
//
//   - A member may put users in as many keys as it has names and slots for, and no
//     others: the tags of a certificate are bounded, those of the grants the founder's.
//
//   - What a member said of a user before it took it back may be served for as long
//     as that was meant to hold, to readers that have not seen the newer record.
//
//   - A sequence number from the future is refused, so a peer cannot be made
//     to burn its own.
//
//     file           section
//     key.go         DESIGN §8 Names, §14.5
//     record.go      DESIGN §8 Names, §14.2
//     contact.go     DESIGN §14.5
//     user.go        draft §6
//     validator.go   DESIGN §8 Names, §14.2
//     order.go       DESIGN §14.2
//     highwater.go   DESIGN §14.2
package naming

// Package directory finds which peer has a name, and makes this peer's own name found,
// in the distributed database that all members keep together (draft §5). Resolve asks
// it, Publish puts this peer's own records there, and Serve makes this peer one of its
// servers.
//
// The database is kad-dht's as far as it is served, on a host that knows members
// only; it is asked by walks of our own. Whom a peer is connected to is the
// mesh's business, and who is a member the roster's: both are interfaces here.
//
// # Who keeps the database
//
// The founder at once. Another peer becomes a server when it has been up for 30 s
// and either fewer than three servers are known, or servers of fewer than three
// accounts and none of its own (package account), or a member's connection has come
// in, which proves that others reach it; later in a large overlay, by lot, so
// that an office which came at once does not become servers at once. When no
// server is connected any more, the first of those that are connected to each
// other, by ID, becomes one at once, and the others if it has not after two
// seconds; where there are many, after a second, and later if something still
// comes from where a server is, which may be busy, and by lot the further apart the
// more there are. Who is alone does not, since
// nobody could ask it, nor does who is just coming in: an office that comes at
// once keeps its server so busy that some see others before they see that. To
// make a peer a server as soon as fewer than three are known would be worse in a
// small, young overlay: a peer that lives for seconds takes records and lookups
// with it when it goes, every record is put again for each newcomer, and peers
// behind NATs that nobody has tried yet are asked in vain. Waiting costs nothing:
// with one server there is one place to look, and lookups take one round trip.
// The role is not given back: that would lose the records again.
//
// # Whom it knows of them
//
// The servers that say hello are in kad-dht's routing table, each after it has answered
// a question. In a full bucket one that answers stays, unless its account has more of the
// bucket than the newcomer's; one that is not connected is asked whether it still is there.
//
// # Reading
//
// A record is put under three keys, at the eight servers nearest each. Reads
// walk to them as Kademlia does, but by our own walk instead of
// kad-dht's: it tells which member gave a record, counts who has answered that
// there is none, and returns as soon as three agree or replicas go quiet for
// 150 ms. With fewer servers than replicas each keeps every record and one key
// is asked, and the others as well if it turns out that there are more.
//
// "No such name" is said only if twice as many of the eight servers nearest each
// key have answered as have not: that those farther away have no record says
// nothing while the nearest are silent, and neither does a server that has been
// one for less than ten seconds, because it may not have been given the record yet.
// Otherwise it is not known, and who asked may ask again.
//
// A record is its peer's own, signed, whoever brings it: members show theirs in
// their hellos and tell each other those of others. That of a peer that is connected
// or has a live pipe answers at once, if an issuer has confirmed it, while the
// database is asked beside for a better claim (of another peer, or a newer one);
// those of others answer when the database is quiet for 200 ms. What nobody has
// confirmed is told by the database, as long as there is one. So a name is found
// though the only server has just died without a word.
//
// # Publishing
//
// A peer puts its name record, under three keys, and its contact record, which says
// through whom it is reached. What is put is remembered, with the servers that have
// taken it, because comings and goings must cost little in an overlay where they
// never end:
//
//	what happens                        what is sent
//	-----------------------------------------------------------------
//	a server says hello that has all    nothing
//	a server comes, or has begun anew   to it, each record that it should have
//	a server goes that had records      to the next nearest, if it is connected
//	a record changes                    to those that had the last version
//	more than half of the servers that  a walk to the nearest, and to those
//	should have a record have it not
//	half an hour (contacts), an hour    a walk, for each record
//	no server is connected              nothing, until one is
//
// What comes within 100 ms is put together, and rounds are five seconds apart, less
// when a server has only just begun. A server gives others that come the records
// that they should keep as well, because owners need not know of them
// (Kademlia §2.5).
//
// # Users
//
// PublishUser puts that a user, "sip:fred", is at this member, and LookupUser finds where
// one is: at naming.UserSlots members at most, each of which has a key of its own for that.
// A member takes a free one, reads it again when it has put its record there, and takes
// another if one that came at the same time is there. Answers are not kept: the next call
// follows a phone that has moved. Records are given to servers that come, as the others
// are; repeating them is the caller's business, who knows whether the phone still is there.
//
// # After a power cut
//
// All parts of the database are empty then. A server that has only just begun says
// so in its hello; owners put their records there at once, and "no such name" is not
// believed of such servers for ten seconds: if there is no other, a reader asks again
// until it times out.
//
// # Files
//
//	directory.go  the Directory, what it needs, what it is told
//	database.go   this peer's part, and single requests to servers  draft §5
//	table.go      who is in the routing table          Kademlia §2.2
//	store.go      how many records of whom are kept
//	host.go       the host as kad-dht sees it          DESIGN §14.6
//	role.go       when a peer becomes a server         DESIGN §14.6
//	handover.go   records for servers that come new    Kademlia §2.5
//	walk.go       walks to the servers nearest a key
//	names.go      answers to questions for names       DESIGN §14.2
//	read.go       what the servers say about one name
//	claims.go     name records that peers show and tell
//	publish.go    this peer's own records              DESIGN §8, §14.5
//	placed.go     whether others find its name
//	own.go        one of them, and who has it
//	users.go      where users are                      draft §6
//	validate.go   a memory of valid records
package directory

// Package grants reads a policy, which says who may open what at whom, and decides by
// it. It does no I/O, has no clock and starts nothing.
//
// Call Parse for a text, Policy.Failures to see whether it does what it is meant to,
// Policy.At for the Guard of one member, and Guard.Allows for each first packet.
// Policy.Explain tells a person why. A Policy and a Guard never change, so any number
// of goroutines may use one.
//
// # A policy
//
//	allow tag:web to open tcp 5432 at tag:db
//	allow venus, pluto to open tcp 22, udp 60000-61000 at mars
//	allow everybody to open everything at tag:public
//	allow tag:admin to open tcp at everybody     # every TCP port
//	allow tag:ops to open tcp 80 at mars, new only
//	expect tag:web may open tcp 5432 at tag:db
//	expect pluto may not open tcp 22 at venus
//	tag mars as db, public
//
// Without a rule everybody may open everything, as if there were no policy. With at
// least one, only what a rule allows is allowed. Rules only allow, so their order
// does not matter, and whoever has one more tag may never do less.
//
// # Grammar
//
// In the notation of the Go specification. Words are separated by spaces and tabs; a
// comma is a word of its own, with or without spaces around it; the case of letters
// does not matter, in names as in keywords.
//
//	text    = { line "\n" } .
//	line    = [ rule | expect | tag ] [ "#" comment ] .
//	rule    = "allow" parties "to" "open" things "at" parties [ "," "new" "only" ] .
//	expect  = "expect" party "may" [ "not" ] "open" thing "at" party .
//	tag     = "tag" name { "," name } "as" ( "nothing" | label { "," label } ) .
//	parties = party { "," party } .
//	party   = "everybody" | "tag:" label | name .
//	name    = label | label "." domain .
//	things  = thing { "," thing } .
//	thing   = "everything" | network [ port [ "-" port ] ] .
//	network = "tcp" | "udp" .
//	port    = "1" … "65535" .
//
// "tag:" and its label are one word, a range of ports is one word, and so is a name.
// Names and tags are labels as membership.CheckLabel wants them; domain is the overlay's.
//
// Where a party may stand every word is a party, also one that is a keyword elsewhere:
// "allow to to open tcp at at" lets the member "to" in at the member "at". Only
// everybody is reserved; the member of that name is written with its domain. A comma
// after a party begins another one unless "new only" follows, which is no list, as it
// has no comma: so "at mars, new only" ends with the words, and "at mars, new, only"
// names three members.
//
// A text may hold other scripts in comments only, and no character that a reviewer
// cannot see or that changes the order of what is seen.
//
// # Who is somebody
//
// A name means the member that has it, a tag each member that has it, by a line "tag" or
// else by its certificate (Policy.Tags: whoever asks says which tags a member has), and everybody
// each member of the overlay. A list means whom one of its parties means. What is opened
// at a member is decided there, by its Guard, for what the other one's certificate says.
//
// # Expectations
//
// An expectation changes nothing. Whoever is about to put a policy in force asks
// Failures first, and refuses the policy if there are any. "venus" in an expectation is
// a member of that name with the tags that a line says it has, or none, "tag:web" one without a name that has this tag
// alone, "everybody" one without either. As rules only allow, what such a member may
// open it may open with more tags as well: "may" holds for all whom the party means.
// "may not" does not: a member may have a tag besides that is allowed more. So
// "everybody may not" would promise what it cannot, and is refused. Of several ports
// "may" means each, and "may not" none.
//
// # When a policy changes
//
// A flow that the new policy does not allow ends, unless a rule that allowed it said
// "new only". By then that rule may have been gone for several changes. So whoever
// keeps flows remembers one bool with each, and needs no older Guard:
//
//	when it opens:   if !g.Allows(who, n, port) { refuse it }
//	                 keeps = g.Keeps(who, n, port)
//	at a change:     if g.Allows(who, n, port) { keeps = g.Keeps(who, n, port) }
//	                 else if !keeps { end it }
//
// The same is done when the tags of either side have changed. Whoever was revoked
// loses its flows whatever is kept here.
//
// # Bounds
//
// A policy is signed by the overlay's authorities (package membership) and comes from
// other members. A text is bounded, Parse takes time in proportion
// to it, and what a Guard keeps does not grow with the product of two lists: parties
// that the same rules name share one table.
//
//	MaxText    32 KiB   a text, with its comments
//	maxErrors  10       lines of a text that Parse complains about
//	maxQuoted  40       bytes of a word that an error repeats
//
//	file         what
//	policy.go    the Policy: networks, parties, Parse
//	line.go      one line: a rule or an expectation
//	party.go     everybody, names, tags
//	ports.go     what is opened: networks and ports
//	guard.go     the Guard: decisions at one member
//	explain.go   decisions for people
//	expect.go    what a policy is meant to do
//	tagging.go   which tags members have
package grants

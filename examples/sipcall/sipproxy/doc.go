// Package sipproxy is what a node needs for phones that call each other by an address of
// record, sip:fred@example.com, where draft-matthews-p2psip-id-loc-01 §6 could only call a
// machine, sip:fred@mars.example.com: a registrar, a redirect server and an outbound proxy
// in one, on the node's own LSI, for the phones of its own host. There is no other server,
// and SIP is as it is: each node has a proxy of its own, and the overlay's database says
// where a user is.
//
// Start begins it; a phone is told "outbound proxy mars.example.com" (its own node), or
// asks the node's DNS, which answers the SRV question for example.com with this proxy (RFC
// 3263).
//
// # A call
//
//	wilma's phone    venus' proxy                 mars' proxy      fred's phone
//	     │                │   "sip:fred → mars"        │ ◀─ REGISTER ───│
//	     │                │    in the database         │ ─── 200 ─────▶ │
//	     │ INVITE fred@example.com                     │                │
//	     │ ─────────────▶ │                            │                │
//	     │ ◀─── 302 fred@mars.example.com              │                │
//	     │ INVITE fred@mars.example.com                │                │
//	     │ ─────────────▶ │ ─────── INVITE ──────────▶ │ ── INVITE ───▶ │
//	     │ ◀───────────── │ ◀──────── 200 ──────────── │ ◀── 200 ────── │
//	     │ ◀════════════════ sound, past the proxies ═════════════════▶ │
//
// # Who is fred
//
// PublishUser decides, by what the founder has said: "tag mars as user-fred". A phone that
// registers a user that its node may not say is answered 403. All phones of one host are
// the node's own: the proxy does not tell them apart, and has no passwords. What comes from
// other members is taken for phones of this host only, and never sent on to third ones; a
// phone is an address of this host that has sent something to the proxy.
//
// Of one user's phones at one node the one with the highest q rings, of several the one
// that has registered last. Of several nodes all are named in the 302, with their q.
//
// # Addresses
//
// An IPv4 LSI means something on its own host only (draft §9.1), and phones put theirs into
// Contact and SDP. So what leaves for another member has names in place of LSIs, and what
// comes from one is given to the phone with the LSIs that these names have here:
//
//	where                                at venus          on its way          at mars
//	Request-URI, Contact, Route,         198.18.0.1        venus.example.com   198.18.77.3
//	  Record-Route; c=, o= and a=rtcp
//	  of SDP, and its candidates
//
// Ports stay, and so does all else: From, To, Call-ID, IPv6, which is the same everywhere,
// and Vias of phones, which nobody but the phone itself reads; the proxy's own have its name
// on the way, and its LSI where a phone reads it. Sound goes from phone to phone, by these LSIs.
//
// # State
//
// The proxy keeps no transactions (RFC 3261 §16.11): what it forwards is a function of the
// message, of who has registered, and of the overlay. It speaks UDP only.
//
//	file            what                            section
//	proxy.go        the socket                      RFC 3261 §18
//	requests.go     where a request goes            RFC 3261 §16.4–16.6, §16.11
//	responses.go    the way back, and own answers   RFC 3261 §16.7, §18.2.2, RFC 3581
//	registrar.go    REGISTER                        RFC 3261 §10.3
//	redirect.go     302                             RFC 3261 §8.3
//	rewrite.go      addresses                       draft §9.1
package sipproxy

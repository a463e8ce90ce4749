// Package pep is a performance enhancing proxy (RFC 3135) for the TCP of one
// peer: it stands in the shim, sees every segment that goes out or comes in, and
// changes when some of them go on. It never changes what a segment says, keeps no
// payload of ours, and TCP works without it.
//
// A Proxy is called by the shim, for each segment once on its way:
//
//	to the peer     Hold     keeps an acknowledgement that a reply will carry (ack.go)
//	                Ride     puts one that is kept beside another packet
//	                AckSent  says the last one before a pause again (lastack.go)
//	                MoreSent makes that needless
//	from the peer   Expect   learns what the stack will acknowledge
//	                Opens    wants the client's acknowledgement by itself first (opening.go)
//	                Repaired learns how long a repair may take
//	                Deliver  puts segments in order that the path has reordered (order.go)
//
// and calls back through Link. The zero Proxy is ready after Init, and allocates
// nothing until there is something to watch.
//
//	proxy.go    Proxy, Link
//	ack.go      acknowledgements that something else carries  RFC 9293 §3.8.6.3
//	opening.go  connections whose client speaks at once
//	lastack.go  acknowledgements before a pause
//	order.go    segments overtaken                            RFC 8985 §6.2
//	lacks.go    what a flow went up without
package pep

// Package congestion says how much may be under way on a path, and how fast it may
// leave. It has no clock, no goroutine and no source of randomness of its own: times
// are parameters, counted from any moment, and Config has the random numbers.
//
// A Path is the sender's view of one path. It counts what is under way, measures
// the round trip and the rate at which packets arrive, and asks its Controller what
// that means:
//
//	Sent(packet) ──► Acked(packet) or Lost(packet) ──► Update ──► Window, Rate
//
// Packets are told one by one; what one acknowledgement says of several ends with
// one Update. A Path belongs to whoever holds its owner's lock.
//
// # BBR
//
// BBR is draft-ietf-ccwg-bbr with its long-term and short-term bounds:
//
//	        the rate stops growing        nothing is queued
//	Startup ──────────────────────> Drain ────────────────> Down ──> Cruise
//	   ^                                                      ^         │ 2 to 3 s
//	   │ before the path was found full                       │         v
//	ProbeRTT <── 5 s without the shortest round trip          Up <── Refill
//
// It differs from the draft in what it takes for congestion. The draft bounds what
// is under way wherever more than 2 % of it are lost. Wi-Fi, mobile and satellite
// links lose as much of anything they carry, and no less of less. So a loss counts
// if the shortest round trip of its round shows a queue, or if a fifth of a window
// is gone, and 2 % means: above what is lost where nothing is queued. For the same
// reason a round with a loss sets the short-term bounds only if it is such a loss.
//
// And a rate is measured over 40 ms at least where a round trip is shorter: a host
// whose processors are busy hands over acknowledgements in bursts, of which the
// fastest would be taken for the path's rate.
//
// What was taken for lost and arrives after all undoes what its loss did, if that is so
// of most that were lost in its round trip (BBRHandleSpuriousLossDetection): a host that
// is busy may hold back a whole window.
//
// Beside what minds a queue (Path.Gentle: datagrams), Up raises the rate by a tenth and
// not by a quarter, and ends where round trips are 8 ms longer than the shortest.
//
// On a path that a stream carries, 8 % of the rate are left unused (Config.Stream). What
// TCP holds it delivers late and at once, so the fastest bursts are more than the path's
// rate, and nothing but its window would keep a sender at them from filling the stream with two or three
// round trips of data. Nor is there a loss that tells of it.
//
// A mark by a router (RFC 3168) is a loss by congestion.
//
// # CUBIC
//
// Cubic is RFC 9438 with HyStart++ (RFC 9406) and proportional pacing at 1.25
// windows a round trip, 2 in slow start. It takes every loss for congestion, and undoes it like BBR (RFC 9438 §4.9).
//
// # File table
//
//	path.go    Path: what is under way         draft-ietf-ccwg-bbr §4.1, RFC 9002 §5
//	bbr.go     BBR                             draft-ietf-ccwg-bbr §5
//	bounds.go  its bounds on what is under way draft-ietf-ccwg-bbr §5.5.10
//	cubic.go   CUBIC with HyStart++            RFC 9438, RFC 9406
package congestion

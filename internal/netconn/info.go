package netconn

import "time"

// TCPInfo is what a TCP connection knows of itself, as TCP_INFO has it. It is a
// plain value.
type TCPInfo struct {
	// State is RFC 9293's: ESTABLISHED, CLOSE-WAIT, CLOSED…; STANDING while a
	// conn with null encapsulation has no path.
	State string

	RTT    time.Duration // smoothed round trip (RFC 6298); 0: not measured yet
	RTTVar time.Duration // how much it varies
	RTO    time.Duration // how long a segment waits to be acknowledged before it is sent again

	// PathRTT is the round trip of the pipe's present path, without the peer's
	// TCP; 0: not known, or there is no pipe.
	PathRTT time.Duration

	Retransmits        uint64 // segments that were sent again
	CongestionWindow   int    // segments
	SlowStartThreshold int    // segments; 0: nothing was lost yet

	DeliveryRate uint64 // bytes a second of late; 0: not known, as TCP in the process does not measure it

	BytesWritten  uint64 // what Write has taken, of which the end may not be sent yet
	BytesReceived uint64 // what has come in order, of which the end may not be read yet
}

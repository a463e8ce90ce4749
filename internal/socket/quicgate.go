package socket

import "net/netip"

// Lengths of QUIC version 1.
const (
	minInitial = 1200 // datagrams that carry a client's Initial, RFC 9000 §14.1
	minShort   = 21   // the least that is no sure stateless reset, §10.3
	maxQUIC    = 1536 // what a view keeps; the QUIC stack reads 1452
	maxCID     = 20   // §17.2
	minFirst   = 8    // connection ID that a client makes up for its first flight, §7.2
	quicV1     = 1
)

// Types of long headers, RFC 9000 §17.2, table 5.
const (
	longInitial = iota
	longZeroRTT
	longHandshake
	longRetry
)

// longHeader is what a long header shows without any key.
type longHeader struct {
	kind       uint8
	dcid, scid []byte // borrowed from the packet
}

// parseLong reads the header of the first packet in b. Not dropReasons means
// that b cannot be QUIC version 1.
//
//	Long Header Packet {               RFC 9000 §17.2
//	  Header Form (1) = 1,
//	  Fixed Bit (1) = 1,
//	  Long Packet Type (2),
//	  Type-Specific Bits (4),
//	  Version (32),
//	  Destination Connection ID Length (8),
//	  Destination Connection ID (0..160),
//	  Source Connection ID Length (8),
//	  Source Connection ID (0..160),
//	  Type-Specific Payload (..),      Initial: Token Length (i), Token, Length (i)
//	}                                  0-RTT, Handshake: Length (i); Retry: Token, Tag (128)
func parseLong(b []byte) (h longHeader, bad dropReason) {
	if len(b) < 7 || b[0]&0xc0 != 0xc0 {
		return h, dropQUICLength
	}
	h.kind = b[0] >> 4 & 3
	if b[1]|b[2]|b[3] != 0 || b[4] != quicV1 {
		return h, dropQUICVersion
	}
	b = b[5:]
	var ok bool
	if h.dcid, b, ok = connID(b); !ok {
		return h, dropQUICLength
	}
	if h.scid, b, ok = connID(b); !ok {
		return h, dropQUICLength
	}
	if h.kind == longRetry {
		if len(b) <= 16 { // a token of at least one byte, and the integrity tag
			return h, dropQUICLength
		}
		return h, dropReasons
	}
	if h.kind == longInitial {
		var n uint64
		if n, b, ok = varint(b); !ok || n > uint64(len(b)) {
			return h, dropQUICLength
		}
		b = b[n:]
	}
	// Length covers packet number and payload; the least that can be
	// unprotected is 4 + 16 bytes, §17.2 and RFC 9001 §5.4.2.
	n, b, ok := varint(b)
	if !ok || n < 20 || n > uint64(len(b)) {
		return h, dropQUICLength
	}
	return h, dropReasons
}

// connID takes a connection ID and the length before it off b.
func connID(b []byte) (id, rest []byte, ok bool) {
	if len(b) == 0 || b[0] > maxCID || len(b) < 1+int(b[0]) {
		return nil, nil, false
	}
	n := 1 + int(b[0])
	return b[1:n], b[n:], true
}

// varint takes a variable-length integer off b, RFC 9000 §16.
func varint(b []byte) (v uint64, rest []byte, ok bool) {
	if len(b) == 0 {
		return 0, nil, false
	}
	n := 1 << (b[0] >> 6)
	if len(b) < n {
		return 0, nil, false
	}
	v = uint64(b[0] & 0x3f)
	for _, c := range b[1:n] {
		v = v<<8 | uint64(c)
	}
	return v, b[n:], true
}

// quic passes one datagram to the views that may answer for it, or drops it.
// d is borrowed.
//
// What comes through: first packets (Initial, padded, of version 1, and such
// that they open) from anyone, as many as the limiter lets; everything else only from addresses
// that sent us such a packet or that we sent QUIC to, in the last minute; and,
// from other addresses, as many as the limiter lets of short headers with a
// connection ID that this host has chosen (KnowIDs): a peer whose NAT gave it
// another port, or that moved without noticing, goes on so, and the QUIC stack
// follows it once it has proved the new path (RFC 9000 §9); and one whose
// connection is of this host's former life gets a stateless reset. Nothing that a stranger
// makes up draws a stateless reset or a version negotiation packet.
func (c *Conn) quic(d []byte, from netip.AddrPort) {
	views := *c.views.Load()
	if len(views) == 0 {
		c.count.drop(dropNoView)
		return
	}
	if len(d) < minShort || len(d) > maxQUIC {
		c.count.drop(dropQUICLength)
		return
	}
	key := c.port.sources.key(from)
	viewID, _, known := c.port.sources.find(key)
	if d[0]&0x80 == 0 {
		c.quicShort(views, d, from, key, viewID, known)
	} else {
		c.quicLong(views, d, from, key, known)
	}
}

// quicShort passes a packet with a short header on, one of a connection. key is
// from's in the table of sources; known says whether it is there, viewID which
// view it belongs to.
func (c *Conn) quicShort(views []*view, d []byte, from netip.AddrPort, key sourceKey, viewID uint8, known bool) {
	p := c.port
	own := p.owns(d[1:])
	switch {
	case !known && !(own && p.limit.allow(from, c.Carried())):
		c.count.drop(dropQUICStranger)
		return
	case own && known && p.sources.sentTo(key):
		p.quicPeers.note(p.quicPeers.key(from), viewID, 0, 0)
	}
	if len(views) > 1 {
		// Connection IDs of this side are all of the length that its
		// QUIC stack chose; the table knows them by that.
		if id := p.cids.findShort(d[1:]); id != 0 {
			viewID = id
		}
	}
	v := viewByID(views, viewID)
	if v == nil {
		v = views[0]
	}
	v.put(c, d, from)
}

// quicLong passes a packet with a long header on, one of a handshake.
func (c *Conn) quicLong(views []*view, d []byte, from netip.AddrPort, key sourceKey, known bool) {
	p := c.port
	h, bad := parseLong(d)
	if bad != dropReasons {
		c.count.drop(bad)
		return
	}
	switch {
	case h.kind == longInitial && (len(d) < minInitial || len(h.dcid) < minFirst) && !known,
		h.kind != longInitial && !known:
		c.count.drop(dropQUICStranger)
		return
	case h.kind == longInitial && !p.limit.allow(from, c.Carried()):
		c.count.drop(dropQUICRate)
		return
	case h.kind == longInitial && !known && !opensInitial(d, h):
		c.count.drop(dropQUICForged)
		return
	case h.kind == longInitial:
		p.sources.heard(key, c.id)
	}
	if len(views) > 1 {
		if v := viewByID(views, p.cids.find(h.dcid)); v != nil {
			v.put(c, d, from)
			return
		}
	}
	// A connection ID of the client's making: whichever view has a listener
	// takes it, the others ignore it without an answer.
	for _, v := range views {
		v.put(c, d, from)
	}
}

// viewByID returns the one of views that has this number, nil if none.
func viewByID(views []*view, id uint8) *view {
	for _, v := range views {
		if v.id == id && id != 0 {
			return v
		}
	}
	return nil
}

package hearsay

import "time"

// charge is one datagram that nobody has answered yet.
type charge struct {
	at    time.Time
	port  uint16
	bytes int
	by    *teller // whose budget it came from; nil: nobody's
}

// place is what went to one IP address in the last window, oldest first.
type place []charge

// fresh drops what is older than the window.
func (p place) fresh(now time.Time) place {
	n := 0
	for n < len(p) && now.Sub(p[n].at) >= Window {
		n++
	}
	return p[n:]
}

// room says whether packets of bytes together fit, and if not when they may.
func (p place) room(packets, bytes, maxPackets, maxBytes int, now time.Time) (ok bool, wait time.Duration) {
	sum := bytes
	for _, c := range p {
		sum += c.bytes
	}
	for i := 0; ; i++ {
		if len(p)-i+packets <= maxPackets && sum <= maxBytes {
			return i == 0, wait
		}
		if i == len(p) {
			return false, Window // never: more than fits at all
		}
		sum -= p[i].bytes
		wait = Window - now.Sub(p[i].at)
	}
}

// answered takes out what went to a port and gives it back to who was charged.
func (p place) answered(port uint16) place {
	kept := p[:0]
	for _, c := range p {
		if c.port != port {
			kept = append(kept, c)
		} else if c.by != nil {
			c.by.refund()
		}
	}
	return kept
}

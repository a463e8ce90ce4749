package pipe

// Paths over carriers: streams to the peer itself (package carrier), which to a pipe are
// a Sender as others. They give way to direct paths, as relayed ones do, but a relay may
// be reached by one.

// CarrierSender is a Sender that may be that of carriers.
type CarrierSender interface {
	Sender
	Carried() bool // it is
}

// Carried says whether the path is a carrier.
func (at Path) Carried() bool {
	s, ok := at.Local.(CarrierSender)
	return ok && s.Carried()
}

// Carried says whether data goes over a carrier now.
func (p *Pipe) Carried() bool {
	t := p.paths.best.Load()
	return t != nil && t.Carried()
}

// OverCarrier says whether data goes over a carrier now, to the peer or to a relay.
func (p *Pipe) OverCarrier() bool {
	t := p.paths.best.Load()
	if t == nil {
		return false
	}
	if l, ok := t.Local.(*relayLink); ok {
		return l.relay.Carried()
	}
	return t.Carried()
}

// relayedOverCarrier says whether data goes to a relay over a carrier.
func (p *Pipe) relayedOverCarrier() bool { return p.OverCarrier() && !p.Carried() }

// spare challenges the peer on the paths that are kept for when no other works.
func (p *Pipe) spare() {
	if p.e.cfg.Spare == nil {
		return
	}
	for _, at := range p.e.cfg.Spare(p.peer) {
		p.AddPath(at)
	}
}

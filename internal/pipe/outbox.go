package pipe

import (
	"github.com/idloc/idloc/internal/event"
	"github.com/idloc/idloc/internal/wire"
)

// outbox is what is to be done outside the pipe's mu because of what happened
// under it: unlock sends, tells and hands on. The pipe's mu guards it.
type outbox struct {
	datagrams []outgoing
	calls     []call       // to the Handler and the event sink, in order
	calling   bool         // a goroutine is delivering calls
	settled   []*Session   // confirmed: the Endpoint takes their offers off the half-open ones
	asked     []wire.Frame // RELAY-BINDs for the Endpoint
	released  [][16]byte   // sessions whose bindings the peer lets go
	farewell  *farewell    // what goes on after the end
}

// call is one thing to tell the Handler or the event sink.
type call struct {
	up, down bool
	gone     bool // all that was open with the peer is over
	spare    bool // the peer is looked for: other ways to it may be tried
	failed   bool // the path that took data, but there is another
	err      error
	event    event.Event
	ready    chan struct{} // to close when the event is told
}

// unlock releases mu and then sends and tells what was queued under it.
func (p *Pipe) unlock() {
	if len(p.paths.early.queue) > 0 {
		if p.state == stateUp {
			p.outbox.datagrams = append(p.outbox.datagrams, p.takeEarly()...)
		} else {
			p.dropEarly()
		}
	}
	out, settled, asked, released := p.outbox.datagrams, p.outbox.settled, p.outbox.asked, p.outbox.released
	p.outbox.datagrams, p.outbox.settled, p.outbox.asked, p.outbox.released = nil, nil, nil, nil
	closed := p.state == stateClosed
	var keys []*keypair
	var last *farewell
	rtt := p.rtt()
	if closed {
		last, p.outbox.farewell = p.outbox.farewell, nil
		keys, p.keys.all, p.keys.cur = p.keys.all, nil, nil
		p.paths.best.Store(nil)
		p.pieces.waiting, p.paths.pings, p.relay.binds = nil, nil, nil
		p.life.again = again{}
	}
	deliver := !p.outbox.calling && len(p.outbox.calls) > 0
	if deliver {
		p.outbox.calling = true
	}
	p.mu.Unlock()
	for i := range out {
		p.write(&out[i])
	}
	for _, k := range keys {
		p.drop(k)
	}
	if closed {
		p.repair.close(p)
	}
	if last != nil {
		p.e.sayFarewell(last, rtt)
	}
	for _, s := range settled {
		p.e.settleSession(s)
	}
	if closed {
		p.e.dropPipe(p)
		p.endRelayed()
	} else {
		for _, session := range released {
			p.e.relays.release(p, session)
		}
		for _, f := range asked {
			p.e.relayAsked(p, f.Peer, f.Session)
		}
	}
	if deliver {
		p.deliver()
	}
}

// deliver calls the Handler until nothing is queued. Only one goroutine does
// so at a time, so that Up and Down keep their order.
func (p *Pipe) deliver() {
	for {
		p.mu.Lock()
		if len(p.outbox.calls) == 0 {
			p.outbox.calling = false
			p.mu.Unlock()
			return
		}
		c := p.outbox.calls[0]
		p.outbox.calls = p.outbox.calls[1:]
		if len(p.outbox.calls) == 0 {
			p.outbox.calls = nil
		}
		p.mu.Unlock()
		switch {
		case c.gone:
			p.e.cfg.Handler.Gone(p.peer, c.err)
			p.e.processes.gone(p.peer)
		case c.up:
			p.e.cfg.Handler.Up(p)
		case c.down:
			p.e.cfg.Handler.Down(p, c.err)
			if c.err == ErrDead && p.e.cfg.Dead != nil {
				p.e.cfg.Dead(p, p.e.now() < p.life.data.Load()+wantedFor)
			}
		case c.spare:
			p.spare()
		case c.failed:
			if p.e.cfg.Dead != nil {
				p.e.cfg.Dead(p, false)
			}
		default:
			p.e.emit(c.event)
			if c.ready != nil {
				close(c.ready)
			}
			if c.event.Kind == event.PipeMoved && p.e.cfg.Moved != nil {
				p.e.cfg.Moved(p)
			}
		}
	}
}

package directory

import (
	"context"

	"github.com/idloc/idloc/internal/event"
)

// Placed waits after Publish until whoever asks for this peer's name finds it: a server
// has it under each of its keys, or this peer is the only one. Who is connected to
// members of which none is a server waits until one of them, or this peer, has become
// one. It says whether ctx has not ended before. Run has to run.
func (d *Directory) Placed(ctx context.Context) bool {
	select {
	case <-d.publisher.placed:
		return true
	case <-ctx.Done():
	case <-d.ctx.Done():
	}
	return false
}

// notePlaced is called when a round ends. What is in the database now is said, and
// whoever waits for the name to be found need not wait any more, if it is.
func (p *publisher) notePlaced(label string) {
	p.mu.Lock()
	names := p.names
	p.mu.Unlock()
	alone, least, most := len(p.db.servers()) == 0, 1, 0
	for _, r := range names {
		n := r.taken()
		least, most = min(least, n), max(most, n)
	}
	server := p.db.isServer()
	p.mu.Lock()
	said := p.unsaid && (most > 0 || server)
	p.unsaid = p.unsaid && !said
	p.mu.Unlock()
	if said {
		p.cfg.Events.Emit(event.Event{Kind: event.NamePublished, Name: p.cfg.Overlay.FullName(label)})
	}
	if least == 0 && !(alone && server) {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.found {
		p.found = true
		close(p.placed)
	}
}

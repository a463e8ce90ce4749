package overlay

import (
	"time"

	"github.com/idloc/idloc/internal/pause"
	"github.com/idloc/idloc/internal/pipe"
)

// settleLook is the pause between two looks whether a member is connected.
const settleLook = 20 * time.Millisecond

// settle finds members and mapped addresses after a change, and then new paths
// for the pipes that were up before it. settled is called when offers need wait
// no longer.
func (o *Overlay) settle(were []*pipe.Pipe, settled func()) {
	defer settled()
	measured := o.nat.Mapped().Remeasure() // by those remembered, if nobody is connected
	for !o.mesh.Back(o.ctx) {
		if !pause.For(o.ctx, settleLook) {
			return
		}
	}
	for range 2 {
		select {
		case <-measured:
		case <-o.ctx.Done():
			return
		}
		if o.nat.Mapped().Known() {
			break
		}
		measured = o.nat.Mapped().Remeasure()
	}
	settled()
	o.establish.Renew(o.ctx, were)
}

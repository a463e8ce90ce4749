package netstack

import (
	"sync"
	"time"

	gvisor "gvisor.dev/gvisor/pkg/log"
)

// silence ends gVisor's own log, which it writes to standard error: a line for
// whatever odd segment a peer sends, without a limit. What matters of it is
// counted (Stats). The log is one for the whole process.
var silence = sync.OnceFunc(func() { gvisor.SetTarget(silent{}) })

// silent is a gVisor log that says nothing.
type silent struct{}

// Emit implements gVisor's Emitter.
func (silent) Emit(int, gvisor.Level, time.Time, string, ...any) {}

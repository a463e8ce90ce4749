//go:build !unix

package netstack

import "time"

// cpuTime is not known here.
func cpuTime() time.Duration { return 0 }

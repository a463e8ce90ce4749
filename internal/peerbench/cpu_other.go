//go:build !unix

package main

import "time"

// cpuTime is not known here: CPU columns show 0.
func cpuTime() time.Duration { return 0 }

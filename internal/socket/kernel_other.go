//go:build !linux

package socket

// groSpace is not used: no system but Linux merges datagrams.
const groSpace = 0

func (*kernelLink) ownCalls()                          {}
func forceBuffers(uintptr)                             {}
func receiveBuffer(uintptr) int                        { return 0 }
func enableOffloads(uintptr) (gso, gro bool)           { return false, false }
func (c *control) messages(uint16, uint8, bool) []byte { return nil }
func groSegment([]byte) int                            { return 0 }
func truncated(int) bool                               { return false }
func refusesGSO(error) bool                            { return false }
func refusesClass(error) bool                          { return false }

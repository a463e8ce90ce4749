//go:build !linux

package socket

// groSpace is not used: no system but Linux merges datagrams or tells their class.
const groSpace = 0

func (*kernelLink) ownCalls()                          {}
func forceBuffers(uintptr)                             {}
func receiveBuffer(uintptr) int                        { return 0 }
func enableOffloads(uintptr) (gso, gro bool)           { return false, false }
func (c *control) messages(uint16, uint8, bool) []byte { return nil }
func told([]byte) (int, uint8)                         { return 0, 0 }
func readMarks(uintptr, bool) bool                     { return false }
func truncated(int) bool                               { return false }
func refusesGSO(error) bool                            { return false }
func refusesClass(error) bool                          { return false }

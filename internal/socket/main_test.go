package socket

import (
	"testing"

	"github.com/idloc/idloc/internal/leaktest"
)

// libp2p and its resource manager leave goroutines of their own.
func TestMain(m *testing.M) { leaktest.Own(m, "/internal/socket.") }

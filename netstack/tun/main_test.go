package tun

import (
	"os"
	"testing"

	"github.com/idloc/idloc/internal/leaktest"
)

// What needs a device runs in a user and network namespace of its own: no
// right is needed for that, and nothing of the host is touched.
func TestMain(m *testing.M) {
	if code, ok := inNamespace(); ok {
		os.Exit(code)
	}
	leaktest.Main(m)
}

package netstack

import (
	"testing"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/yardstick"
)

func TestMain(m *testing.M) {
	yardstick.Overlap()
	leaktest.Main(m)
}

package idloc_test

import (
	"testing"
	"time"

	"github.com/idloc/idloc/internal/leaktest"
	"github.com/idloc/idloc/internal/yardstick"
)

// patience is for what happens sooner or later; how soon is not the point, and
// go test finds what hangs.
const patience = 2 * time.Minute

func TestMain(m *testing.M) {
	yardstick.Overlap()
	leaktest.Main(m)
}

package repair

import (
	"flag"
	"testing"

	"github.com/idloc/idloc/internal/leaktest"
)

var links = flag.Int("links", 250, "how many random links TestManyLinks tries, up to 1000")

func TestMain(m *testing.M) { leaktest.Main(m) }

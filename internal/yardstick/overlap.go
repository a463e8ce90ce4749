package yardstick

import (
	"flag"
	"runtime"
	"strconv"

	"github.com/idloc/idloc/internal/race"
)

// Overlap is for the TestMain of a package whose tests mostly wait: it lets four
// parallel tests a processor run at a time instead of one. Under the race detector
// the same tests compute: three a processor run there, since what more do to each other
// is told as a fault of whichever of them waits the longest. What -parallel says
// stands.
func Overlap() {
	if !flag.Parsed() {
		flag.Parse()
	}
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		perProcessor := 4
		if race.Enabled {
			perProcessor = 3
		}
		_ = flag.Set("test.parallel", strconv.Itoa(perProcessor*runtime.GOMAXPROCS(0))) // as testing's own default is set
	}
}

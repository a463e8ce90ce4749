package yardstick

import (
	"flag"
	"runtime"
	"strconv"
)

// Overlap is for the TestMain of a package whose tests mostly wait: it lets four
// parallel tests a processor run at a time instead of one. What -parallel says
// stands.
func Overlap() {
	if !flag.Parsed() {
		flag.Parse()
	}
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "test.parallel" })
	if !asked {
		_ = flag.Set("test.parallel", strconv.Itoa(4*runtime.GOMAXPROCS(0))) // as testing's own default is set
	}
}

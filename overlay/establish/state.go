package establish

import "fmt"

// state is where an establishment is. The diagram is in doc.go.
type state uint8

const (
	// none is before the first.
	none state = iota
	// settling: the network has just changed; the offer or answer waits until
	// members and mapped addresses are known again, for a while.
	settling
	// offering: the initiator's offer is on its way.
	offering
	// yielding: the peer's own offer stands, and is waited for.
	yielding
	// checking: both sides are known, and a path is looked for.
	checking
	// confirming: the pipe has a path, and the peer has not confirmed the keys.
	confirming
	// searching: the pipe is up, not over a direct path that was checked, and
	// the rest of the search goes on beside it.
	searching
	// lingering: there is a result; the agent answers a little longer.
	lingering
	// ended: nothing is left.
	ended
)

var stateNames = [...]string{"none", "settling", "offering", "yielding", "checking", "confirming", "searching", "lingering", "ended"}

func (s state) String() string {
	if int(s) < len(stateNames) {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// states is a set of states.
type states uint16

func in(list ...state) (set states) {
	for _, s := range list {
		set |= 1 << s
	}
	return set
}

func (set states) has(s state) bool { return set&(1<<s) != 0 }

// transitions are those that there are. A test holds the code and doc.go to them.
var transitions = map[state]states{
	none:       in(settling),
	settling:   in(offering, checking, lingering),
	offering:   in(yielding, checking, lingering),
	yielding:   in(lingering),
	checking:   in(confirming, searching, lingering),
	confirming: in(checking, searching, lingering),
	searching:  in(lingering),
	lingering:  in(ended),
}

// setState is every transition: what is done on entering a state is done here.
func (e *establishment) setState(s state) {
	from := e.state
	e.state = s
	if e.c.observe != nil {
		e.c.observe(e, from, s)
	}
	switch s {
	case settling:
		e.settle()
	case offering:
		e.makeOffer()
	case yielding:
		e.alarms.set(yieldFor)
	case checking:
		if from != confirming {
			e.beginSearch()
		}
	case confirming:
		e.alarms.set(e.patience())
	case searching:
		e.publish()
		e.c.noteSearch(e, true)
	case lingering:
		e.c.noteSearch(e, false)
		e.endSearch()
		e.publish()
		e.linger()
	case ended:
		close(e.over)
	}
}

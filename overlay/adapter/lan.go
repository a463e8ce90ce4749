package adapter

import (
	"github.com/idloc/idloc/internal/socket"
	"github.com/idloc/idloc/overlay/directory"
	"github.com/idloc/idloc/overlay/lan"
)

// Places are where a port is on networks that others may be on.
func Places(port *socket.Port) []lan.Place {
	var out []lan.Place
	for _, c := range port.Conns() {
		i, a := c.Interface(), c.LocalAddr()
		if i.Index != 0 && i.Kind == socket.LinkOrdinary && !a.Addr().IsLoopback() {
			out = append(out, lan.Place{Index: i.Index, Addr: a, Net: i.Net})
		}
	}
	return out
}

// meetAlone is how many members a peer that has none tries to meet at once.
const meetAlone = 2

// Lookout is how many members are to be met at once by who has so many: two while it has
// none, one while it may be in a small part of the overlay that has lost the others.
func Lookout(members int) int {
	switch {
	case members == 0:
		return meetAlone
	case members < directory.FewServers:
		return 1
	}
	return 0
}

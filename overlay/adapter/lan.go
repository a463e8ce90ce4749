package adapter

import (
	"github.com/idloc/idloc/internal/socket"
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

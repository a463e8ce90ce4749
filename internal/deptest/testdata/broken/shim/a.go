package shim

import _ "gvisor.dev/gvisor/pkg/buffer"
import _ "gvisor.dev/gvisor/pkg/tcpip/stack"
import _ "github.com/idloc/idloc/netstack"

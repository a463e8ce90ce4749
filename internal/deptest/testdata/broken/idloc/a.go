package idloc

import _ "github.com/idloc/idloc/overlay"
import _ "github.com/idloc/idloc/netstack"
import _ "gvisor.dev/gvisor/pkg/tcpip/stack"

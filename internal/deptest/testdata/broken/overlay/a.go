package overlay

import _ "github.com/miekg/dns"
import _ "github.com/idloc/idloc/overlay/naming"

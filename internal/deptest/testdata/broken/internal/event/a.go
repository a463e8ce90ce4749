package event

import _ "github.com/idloc/idloc/internal/wire"
import _ "github.com/idloc/idloc/internal/peerid"

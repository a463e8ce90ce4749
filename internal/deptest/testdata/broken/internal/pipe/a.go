package pipe

import _ "github.com/idloc/idloc/internal/wire"

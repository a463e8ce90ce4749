package netconn

import "syscall"

// ECN are the bits of a traffic class that are not an application's to choose
// (RFC 3168 §5).
const ECN = 3

// CheckClass returns class without the bits of ECN; the error is EINVAL.
func CheckClass(class int) (uint8, error) {
	if class < 0 || class > 255 {
		return 0, syscall.EINVAL
	}
	return uint8(class) &^ ECN, nil
}

//go:build !linux

package socket

import "errors"

func newNotifier() (notifier, error) { return nil, errors.ErrUnsupported }

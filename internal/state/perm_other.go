//go:build !unix

package state

import (
	"errors"
	"io/fs"
)

// Outside Unix access is governed by lists that a new directory inherits from
// the user's profile; mode bits say nothing.

func checkDir(string, fs.FileInfo) error { return nil }

// OthersSee says whether users other than the owner may look into a directory:
// mode bits do not tell.
func OthersSee(fs.FileInfo) bool { return false }

func checkFile(fs.FileInfo) error { return nil }

// syncDir has nothing to do: a rename is journaled.
func syncDir(string) error { return nil }

// writeRefused says whether err is that the user's rights on the disk take
// nothing new.
func writeRefused(err error) bool { return errors.Is(err, fs.ErrPermission) }

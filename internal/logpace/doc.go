// Package logpace bounds how many lines a log gets of one kind. What a peer or
// a stranger can cause again and again (a bad frame, a refused offer) would else
// fill the disk of whoever keeps the log.
//
// New wraps a logger. Of each message, which must be a constant, fifty lines pass
// at once and then one every five seconds; the next that passes says how many
// were left out. Lines below Info pass all: they are for somebody who watches.
//
// Every package that logs passes its Config's logger through New, and
// internal/deptest holds them to it.
package logpace

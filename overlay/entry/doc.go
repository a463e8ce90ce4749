// Package entry brings a peer into its overlay, once its rooms are up: as a founder, by
// a token, or with a membership from before (DESIGN §14.1, §15.4).
//
//	        a member is reached   name decided   saved   remembered   published
//	Found                                        x                    x
//	Join    x, else an error      x              x       x            x
//	Rejoin  x, else later                        x       (renewed)    x
//
// Whoever waits for a member does so as long as the caller's context lasts; who only
// comes back, ten seconds without a deadline, and a founder, who needs nobody, three.
// What takes longer than a second is said. Whoever has a name may keep records for others
// from then on, which Entrance.Enter says: before, it is no use to them.
package entry

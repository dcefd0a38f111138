package refresher

import "time"

// watchEvery is how often a node looks whether another one has gone on, where a
// person may have authorized or revoked the source there.
const watchEvery = 10 * time.Second

// watch begins to look, in a storage that other nodes may have. It ends with Close.
// The caller holds mu.
func (r *Refresher) watch() {
	if r.watching || !r.options.OneUse || r.ended {
		return
	}
	r.watching = true
	go func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-r.closed:
				return
			case <-tick.C:
				r.watchNow()
			}
		}
	}()
}

// watchNow adopts what is newer. It is no flight for as long as nothing is: others
// would wait for that.
func (r *Refresher) watchNow() {
	r.mu.Lock()
	e := r.environment()
	busy := r.flight != nil
	r.mu.Unlock()
	if busy || e == nil || e.store == nil || !e.store.Shared() {
		return
	}
	record, err := e.store.load()
	if err != nil || record == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch record.version().compare(r.version) {
	case 1:
		r.peekAt = time.Time{}
		r.peek()
	case -1: // of a renewal whose storing was slow
		r.keep()
	}
}

package refresher

import (
	"errors"
	"time"
)

// Pauses between tries to store what could not be stored. While other nodes wait
// for the outcome of a refresh token that was spent, it is the first one.
const (
	firstKeepPause = time.Second
	lastKeepPause  = 30 * time.Second
)

// keep stores the newest token, now and then from time to time until that has
// succeeded. The caller holds mu.
func (r *Refresher) keep() {
	if r.keeping || r.ended {
		return
	}
	r.keeping = true
	go func() {
		for pause := firstKeepPause; ; {
			kept, awaited := r.keepNow()
			if kept {
				return
			}
			if awaited {
				pause = firstKeepPause
			}
			select {
			case <-r.closed:
				return
			case <-time.After(pause):
			}
			pause = min(2*pause, lastKeepPause)
		}
	}()
}

// keepNow returns whether there is nothing left to store, and if there is,
// whether other nodes wait for it.
func (r *Refresher) keepNow() (kept, awaited bool) {
	newest, err := r.takeTurn()
	if err != nil {
		return err == error(errEnded), true
	}
	defer func() { r.options.Lineage.newest <- newest }()
	r.mu.Lock()
	e := r.environment()
	r.mu.Unlock()
	if e != nil && e.store != nil && (newest.token != nil || newest.granted) && r.keepIn(e.store, &newest) != nil {
		if newest.claim == 0 {
			return false, false
		}
		_ = e.store.saveIntent(r.options.Lineage.intent(newest.claim, newest.counter))
		return false, true
	}
	r.mu.Lock()
	r.keeping = false
	if r.version.compare(newest.version()) < 0 {
		r.version = newest.version()
	}
	again := r.unsaved
	r.unsaved = false
	r.mu.Unlock()
	if again && e != nil {
		e.Log.Info("the token is stored again")
	}
	return true, false
}

// keepIn stores the newest token, unless there is a newer one, or one of another
// history: that of a storage which others have had before us.
func (r *Refresher) keepIn(store *patientStore, newest *state) error {
	record, err := store.load()
	stored := newest.granted && record != nil && record.Origin == newest.origin // by a try that seemed to fail
	switch {
	case isNewer(err), err != nil && !isUnreadable(err):
		return err
	case newest.granted && !stored:
		if record != nil {
			newest.outrank(record)
		}
		newest.tried = true
	case isUnreadable(err) && r.options.OneUse && newest.claim == 0:
		return err // it may be a newer one
	case record != nil && newest.isBehind(record):
		newest.take(record, onThisClock(record.Token, time.Time{}, r.now()))
		return nil
	}
	if record == nil || record.version().compare(newest.version()) < 0 {
		if isUnreadable(err) {
			if err := store.do(store.SetAside); err != nil {
				return err
			}
		}
		if err := store.save(newest.record()); err != nil {
			return err
		}
	}
	newest.unsaved, newest.granted, newest.tried, newest.claim = false, false, false, 0
	return nil
}

func isNewer(err error) bool {
	unreadable, ok := errors.AsType[*Unreadable](err)
	return ok && unreadable.Newer
}

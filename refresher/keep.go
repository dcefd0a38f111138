package refresher

import (
	"errors"
	"time"
)

// keep stores what could not be stored, from time to time, until it is. The
// caller holds mu.
func (r *Refresher) keep(pause time.Duration) {
	if r.keeping || r.ended {
		return
	}
	r.keeping = true
	go func() {
		for {
			select {
			case <-r.closed:
				return
			case <-time.After(pause):
			}
			if r.keepNow() {
				return
			}
			pause = min(max(2*pause, time.Second), 30*time.Second)
		}
	}()
}

// keepNow returns whether there is nothing left to store.
func (r *Refresher) keepNow() bool {
	newest, err := r.takeTurn()
	if err != nil {
		return err == error(errEnded)
	}
	defer func() { r.options.Lineage.newest <- newest }()
	r.mu.Lock()
	e := r.environment()
	r.mu.Unlock()
	kept := e == nil || e.store == nil || newest.token == nil || r.keepIn(e, &newest)
	if kept {
		r.mu.Lock()
		r.keeping = false
		report := r.unsaved
		r.unsaved = false
		r.mu.Unlock()
		if report && e != nil {
			e.Log.Info("the token is stored again")
		}
	}
	return kept
}

func (r *Refresher) keepIn(e *Environment, newest *state) bool {
	record, err := e.store.load()
	if err != nil && !isUnreadable(err) || isNewer(err) {
		return false
	}
	if record == nil || record.Counter < newest.counter {
		if isUnreadable(err) && e.store.do(e.store.SetAside) != nil {
			return false
		}
		if e.store.save(&Record{Counter: newest.counter, Token: newest.token, Shared: newest.shared}) != nil {
			return false
		}
	}
	newest.unsaved = false
	return e.store.removeIntent(e.store.Node()) == nil
}

func isNewer(err error) bool {
	unreadable, ok := errors.AsType[*Unreadable](err)
	return ok && unreadable.Newer
}

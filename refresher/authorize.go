package refresher

import (
	"context"

	"github.com/caddytoken/inject-token/tokensource"
)

// Authorize makes what a person has authorized the newest token. Exchange gets it
// from the provider, on a context of the refresher's own: who waits for it may
// leave. It takes the place of every token that is there, on all nodes.
//
// The first result is false where the token could not be stored yet: it is in
// use, and storing is tried again. The error is a *tokensource.Error.
func (r *Refresher) Authorize(exchange func(context.Context) (*tokensource.Token, error)) (token *tokensource.Token, stored bool, err error) {
	err = r.outside(func(turn func() (*renewal, error)) error {
		ctx, cancel := context.WithTimeout(r.base, r.options.Timeout)
		defer cancel()
		if token, err = exchange(ctx); err != nil || token == nil {
			return cause(err)
		}
		n, err := turn()
		if err != nil {
			return cause(err)
		}
		stored = n.grant(token)
		r.granted(token, n.state.version(), stored)
		n.e.Log.Info("authorized", tokenFields(token, n.state.counter)...)
		return nil
	})
	return token, stored, err
}

// grant makes what a person has done the newest of the lineage, and of the storage
// if it can be: a token, or nil where the last one was revoked.
func (n *renewal) grant(token *tokensource.Token) (stored bool) {
	n.state.begin(token, n.r.now())
	if n.store() == nil {
		n.state.granted = false
		return true
	}
	if record, err := n.store().load(); err == nil && record != nil {
		n.state.outrank(record)
	}
	if n.unlock == nil {
		_, _ = n.lock() // which another node may hold for long: a grant outranks what that stores
	}
	return n.r.keepIn(n.store(), &n.state) == nil
}

// granted publishes what a person has authorized.
func (r *Refresher) granted(token *tokensource.Token, v version, stored bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grants++
	r.landed(token, 0)
	r.version = v
	r.refusals = refusals{}
	if !stored {
		r.unsaved = true
		r.keep()
	}
}

// Revoke has the newest token given back to its provider, and forgets it, on all
// nodes. Where that fails nothing is forgotten. The error is a *tokensource.Error.
func (r *Refresher) Revoke(revoke func(context.Context, *tokensource.Token) error) error {
	return r.outside(func(turn func() (*renewal, error)) error {
		n, err := turn()
		if err != nil {
			return cause(err)
		}
		if n.store() != nil {
			if _, err := n.lock(); err == error(errEnded) {
				return errEnded
			}
			_, _ = n.adopt() // the newest is the one to be revoked
		}
		if token := n.state.token; token != nil {
			ctx, cancel := context.WithTimeout(r.base, r.options.Timeout)
			defer cancel()
			if err := revoke(ctx, token); err != nil {
				return cause(err)
			}
		}
		r.revoked(n.grant(nil))
		r.forget(n.state.version())
		n.e.Log.Info("revoked")
		return nil
	})
}

// revoked has the outcome of a renewal that is under way ignored.
func (r *Refresher) revoked(stored bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.grants++
	if !stored {
		r.unsaved = true
		r.keep()
	}
}

// forget drops what was obtained. The version is that of the storage.
func (r *Refresher) forget(v version) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.version = v
	r.current.Store(nil)
	r.obtained = nil
	r.suspect = false
	r.doubtful.Store(false)
	if r.flight == nil {
		r.stopTimer()
		r.failures, r.failure = 0, nil
		if r.options.Person {
			defer r.fly() // which finds that a person is needed, and says so
		}
	}
}

// outside does what is no renewal and takes the turn of the lineage all the same,
// when turn is called. It waits for that for as long as it takes, since what a
// person has done cannot be had again. The end of the refresher waits for it.
func (r *Refresher) outside(do func(turn func() (*renewal, error)) error) (err error) {
	r.mu.Lock()
	e := r.environment()
	select {
	case <-r.finishing:
		e = nil
	default:
	}
	if e == nil {
		r.mu.Unlock()
		return errEnded
	}
	r.authorizing.Add(1)
	r.mu.Unlock()
	defer r.authorizing.Done()
	var n *renewal
	defer func() {
		if recover() != nil { // its value may hold a secret
			err = e.panicked()
		}
		if n != nil {
			n.leave()
			r.options.Lineage.newest <- n.state
		}
	}()
	return do(func() (*renewal, error) {
		select {
		case newest := <-r.options.Lineage.newest:
			n = &renewal{r: r, e: e, state: newest, signs: new(signs)}
			return n, nil
		case <-r.base.Done():
			return nil, errEnded
		}
	})
}

// awaitAuthorizing waits until the context ends, or returns true.
func (r *Refresher) awaitAuthorizing(ctx context.Context) bool {
	done := make(chan struct{})
	go func() {
		r.authorizing.Wait()
		close(done)
	}()
	select {
	case <-done:
		return true
	case <-ctx.Done():
		return false
	}
}

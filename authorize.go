package injecttoken

import (
	"context"
	"crypto/subtle"
	"errors"
	"net/http"
	"net/url"
	"time"

	"go.uber.org/zap"

	"github.com/caddytoken/inject-token/tokensource"
)

// problem is an error with the HTTP status that says whose it is.
type problem struct {
	status int
	text   string
}

func (p *problem) Error() string { return p.text }

// errGrantedBefore is the error of an answer that has led to a token already.
var errGrantedBefore error = &problem{http.StatusConflict, "this authorization was finished before, and there is a token; an answer counts once"}

// errNoAuthorization is the error of an authorization that nobody knows of.
var errNoAuthorization error = &problem{http.StatusNotFound, "there is no such authorization: none has been begun here, or it was forgotten meanwhile"}

func problemOf(err error) error {
	if e, ok := errors.AsType[*tokensource.Error](err); ok {
		return &problem{http.StatusBadGateway, explain(e)}
	}
	return err
}

// begin begins an authorization, in which a person is asked.
func (s *runningSource) begin(ctx context.Context) (*authorization, error) {
	if !s.needsPerson() {
		return nil, &problem{http.StatusConflict, "the token source " + s.name + " has the grant " + s.config.Grant + ", which needs no person"}
	}
	now := time.Now()
	a := &authorization{Source: s.name, Status: authorizationPending, Began: now.UTC(), Expires: now.UTC().Add(authorizationLifetime)}
	state := newState(s.name)
	a.ID = idOf(state)
	var err error
	if s.config.Grant == "device_code" {
		err = s.beginDevice(ctx, a)
	} else if a.code, err = s.source.Authorize(ctx, state); err == nil {
		a.AuthorizationURL, a.RedirectURI = a.code.URL, a.code.RedirectURI
		a.code.URL = "" // nobody needs it again
	}
	if err != nil {
		return nil, problemOf(err)
	}
	if err := s.store.makeRoom(ctx); err != nil {
		return nil, err
	}
	if err := s.store.saveAuthorization(ctx, a); err != nil {
		return nil, err
	}
	s.log.Info("authorization begun", zap.String("authorization", a.ID), zap.Time("until", a.Expires))
	view := a.seen(now)
	if a.device != nil {
		go s.await(*a) //nolint:gosec // it outlives the request that has begun it
	}
	return view, nil
}

func (s *runningSource) beginDevice(ctx context.Context, a *authorization) error {
	d, err := s.source.AuthorizeDevice(ctx)
	if err != nil {
		return err
	}
	a.device, a.node, a.beat = d, node, time.Now()
	a.Expires = a.Began.Add(d.ExpiresIn)
	a.UserCode, a.VerificationURI, a.VerificationURIComplete = d.UserCode, d.VerificationURI, d.VerificationURIComplete
	a.Interval = int(d.Interval / time.Second)
	return nil
}

// complete ends an authorization with what a person has pasted. Without an ID it
// is the only one that is pending.
func (s *runningSource) complete(ctx context.Context, id, pasted string) (*authorization, error) {
	answer := s.source.Read(pasted)
	switch {
	case id != "":
	case answer.State != "":
		id = idOf(answer.State)
	default:
		var err error
		if id, err = s.onlyPending(ctx); err != nil {
			return nil, err
		}
	}
	return s.finish(ctx, id, answer)
}

// cancel ends an authorization that is pending without a token.
func (s *runningSource) cancel(ctx context.Context, id string) (*authorization, error) {
	a, err := s.store.changeAuthorization(ctx, id, func(a *authorization) error {
		if a.seen(time.Now()).Status != authorizationPending {
			return &problem{http.StatusConflict, "this authorization is not pending any more"}
		}
		a.Status, a.Message = authorizationFailed, "It was cancelled."
		return nil
	})
	if err != nil {
		return nil, problemOf(err)
	}
	return a.seen(time.Now()), nil
}

func (s *runningSource) onlyPending(ctx context.Context) (id string, err error) {
	all, err := s.store.authorizations(ctx)
	if err != nil {
		return "", err
	}
	for _, a := range all {
		if a.code == nil || a.seen(time.Now()).Status != authorizationPending {
			continue
		}
		if id != "" {
			return "", &problem{http.StatusConflict, "more than one authorization of " + s.name + " is pending; say which one by its id"}
		}
		id = a.ID
	}
	if id == "" {
		return "", &problem{http.StatusConflict, "no authorization of " + s.name + " is pending; begin one with: " + authorizeCommand(s.name)}
	}
	return id, nil
}

// callback ends the authorization whose state an answer of the provider has. The
// source is nil where the state names none.
func callback(ctx context.Context, parameters url.Values) (*runningSource, *authorization, error) {
	answer := tokensource.CallbackOf(parameters)
	if answer.State == "" {
		return nil, nil, &problem{http.StatusBadRequest, "this is not the answer to an authorization: it has no state"}
	}
	s := runningSources.byName(sourceOf(answer.State))
	if s == nil || !s.needsPerson() {
		return nil, nil, &problem{http.StatusBadRequest, "this is not the answer to an authorization that was begun here"}
	}
	a, err := s.finish(ctx, idOf(answer.State), answer)
	if p, ok := errors.AsType[*problem](err); ok && p.status == http.StatusNotFound {
		err = &problem{http.StatusBadRequest, "this is not the answer to an authorization that was begun here, or it was forgotten meanwhile"}
	}
	return s, a, err
}

// finish sends the code of an answer to the provider, and publishes the token that
// comes for it. It returns what became of the authorization, and an error where
// that is not a token.
func (s *runningSource) finish(ctx context.Context, id string, answer tokensource.Callback) (*authorization, error) {
	a, err := s.claim(ctx, id, answer)
	if err != nil {
		return nil, problemOf(err)
	}
	var failure *tokensource.Error
	status := http.StatusBadGateway
	if err := a.code.Check(answer); err != nil {
		failure, _ = errors.AsType[*tokensource.Error](err)
		if failure.Permanent { // it is not the provider who says so
			status = http.StatusBadRequest
		}
	} else {
		failure = s.exchange(a, answer.Code)
	}
	if failure != nil {
		s.fail(a, failure, !answer.Whole)
	}
	s.tell(a, s.store.saveAuthorization(context.Background(), a)) // whoever asked may have left
	if failure != nil {
		return nil, &problem{status, a.Message}
	}
	return a.seen(time.Now()), nil
}

// fail notes why there is no token.
func (s *runningSource) fail(a *authorization, failure *tokensource.Error, typed bool) {
	a.failed(failure, typed)
	s.log.Warn("authorization failed", zap.String("authorization", a.ID), zap.String("reason", a.Message), zap.String("code", a.Error))
}

// tell has the log know what could not be stored.
func (s *runningSource) tell(a *authorization, err error) {
	if err != nil {
		s.log.Warn("what became of an authorization could not be stored", zap.String("authorization", a.ID), zap.Error(err))
	}
}

// claim makes an authorization ours to be finished: nobody else sends its code, nor
// do we again.
func (s *runningSource) claim(ctx context.Context, id string, answer tokensource.Callback) (*authorization, error) {
	return s.store.changeAuthorization(ctx, id, func(a *authorization) error {
		switch now := a.seen(time.Now()); {
		case now.Status == authorizationGranted:
			return errGrantedBefore
		case now.Status == authorizationFailed:
			return &problem{http.StatusConflict, "this authorization was finished before; an answer counts once"}
		case a.code == nil:
			return &problem{http.StatusConflict, "this authorization is one by device, which is finished there"}
		case answer.Whole && subtle.ConstantTimeCompare([]byte(answer.State), []byte(a.code.State)) == 0:
			return &problem{http.StatusBadRequest, a.code.Check(answer).Error()}
		case now.Status == authorizationExpired, now.Status == authorizationLost:
			return &problem{http.StatusConflict, now.Message}
		case now.Status == authorizationExchanging:
			return &problem{http.StatusConflict, "this authorization is being finished just now"}
		case !answer.Whole:
			if err := a.code.Check(answer); err != nil { // which costs no try
				return &problem{http.StatusBadRequest, err.Error()}
			}
		}
		a.Status, a.node, a.beat = authorizationExchanging, node, time.Now()
		a.tries++
		return nil
	})
}

// exchange sends a code for a token. Meanwhile others see that this process is
// alive.
func (s *runningSource) exchange(a *authorization, code string) *tokensource.Error {
	stop := s.beat(*a)
	token, stored, err := s.refresher.Authorize(func(ctx context.Context) (*tokensource.Token, error) {
		return s.source.Exchange(ctx, a.code, code)
	})
	stop()
	if err != nil {
		failure, _ := errors.AsType[*tokensource.Error](err)
		return failure
	}
	a.granted(token, stored)
	return nil
}

// beat stores a copy of an authorization again and again, until stop has returned.
func (s *runningSource) beat(a authorization) (stop func()) {
	done, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(beatEvery)
		defer tick.Stop()
		for {
			select {
			case <-done:
				return
			case <-tick.C:
				a.beat = time.Now()
				_ = s.store.saveAuthorization(context.Background(), &a)
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// await asks the provider again and again whether the person at the device has
// said yes, as RFC 8628, section 3.5 wants it. It ends with the authorization, with
// its source, or with the process.
func (s *runningSource) await(a authorization) {
	for time.Now().Before(a.Expires) {
		time.Sleep(a.device.Interval)
		now := runningSources.byName(s.name) // perhaps of a newer configuration
		if now == nil || now.identity() != s.identity() {
			return
		}
		s = now
		if kept, err := s.store.loadAuthorization(context.Background(), a.ID); errors.Is(err, errNoAuthorization) || err == nil && kept.Status != authorizationPending {
			return // it was cancelled
		}
		token, stored, err := s.refresher.Authorize(func(ctx context.Context) (*tokensource.Token, error) {
			return s.source.ExchangeDevice(ctx, a.device)
		})
		failure, failed := errors.AsType[*tokensource.Error](err)
		switch {
		case !failed:
			a.granted(token, stored)
		case failure.Code == "authorization_pending":
		case failure.Code == "slow_down":
			a.device.Interval += 5 * time.Second
		case !failure.Permanent:
			a.device.Interval = min(2*a.device.Interval, time.Minute)
			a.Message = explain(failure)
		default:
			s.fail(&a, failure, false)
		}
		if !s.stillAwaited(&a) {
			return
		}
	}
}

var errNotPending = errors.New("it is not pending any more")

// stillAwaited stores how far an authorization by device has come, and says whether
// it is pending: it may have been cancelled meanwhile.
func (s *runningSource) stillAwaited(a *authorization) bool {
	a.beat = time.Now()
	if a.Status != authorizationPending {
		s.tell(a, s.store.saveAuthorization(context.Background(), a))
		return false
	}
	err := s.store.updateAuthorization(context.Background(), a.ID, func(kept *authorization) error {
		if kept.Status != authorizationPending {
			return errNotPending
		}
		kept.beat, kept.Message, kept.device = a.beat, a.Message, a.device
		return nil
	})
	if errors.Is(err, errNotPending) {
		return false
	}
	s.tell(a, err)
	return true
}

// revoke gives the token back to its provider, and forgets it.
func (s *runningSource) revoke() (revoked bool, err error) {
	asked := false
	err = s.refresher.Revoke(func(ctx context.Context, t *tokensource.Token) (err error) {
		asked = true
		revoked, err = s.source.Revoke(ctx, t)
		return err
	})
	if err == nil && !asked {
		return false, &problem{http.StatusConflict, "the token source " + s.name + " has no token that could be revoked"}
	}
	if e, ok := errors.AsType[*tokensource.Error](err); ok {
		err = &problem{http.StatusBadGateway, "the token was not revoked at the provider, and is not forgotten: " + e.Error()}
	}
	return revoked, err
}

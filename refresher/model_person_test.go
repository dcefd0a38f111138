package refresher

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"time"

	"github.com/caddytoken/inject-token/tokensource"
)

// This file is what persons do in the model: they authorize the source, and revoke
// it, on any node and at any time.

// authorize has a person authorize the source on this node.
func (n *modelNode) authorize() (*tokensource.Token, error) {
	token, stored, err := n.r.Authorize(func(ctx context.Context) (*tokensource.Token, error) {
		return skewed{n, n.source}.Exchange(ctx)
	})
	if err != nil {
		n.m.log("%s is not authorized: %v", n.id, err)
		return nil, err
	}
	n.m.log("%s is authorized: %s, stored %v", n.id, token.AccessToken, stored)
	return token, nil
}

// Exchange is Obtain for a code.
func (s skewed) Exchange(ctx context.Context) (*tokensource.Token, error) {
	t, err := s.source.Exchange(ctx, new(tokensource.Authorization), "code")
	if t == nil {
		return nil, err
	}
	late := *t
	late.Issued = late.Issued.Add(s.skew)
	return &late, err
}

func (n *modelNode) revoke() error {
	err := n.r.Revoke(func(ctx context.Context, t *tokensource.Token) error {
		_, err := n.source.Revoke(ctx, t)
		return err
	})
	n.m.log("%s is revoked: %v", n.id, err)
	return err
}

func (m *model) actOfAPerson(n *modelNode) {
	act := func() { _, _ = n.authorize() }
	if m.chance(0.25) {
		act = func() { _ = n.revoke() }
	}
	m.acts.Go(act)
}

// revoke ends all that came of a refresh token; nil: that is not what was asked for.
func (w modelWire) revoke(form url.Values) *http.Response {
	if !form.Has("token_type_hint") {
		return nil
	}
	p := &w.m.provider
	p.mu.Lock()
	defer p.mu.Unlock()
	if family := p.families[form.Get("token")]; family != nil {
		family.revoked = true
	}
	return answerOf(http.StatusOK, "")
}

// settlePerson has a person authorize the source once more when all is well, and
// then revoke it, and wants every node to know of it, and the storage.
func (m *model) settlePerson() {
	const known = 30 * time.Second // on all nodes
	m.acts.Wait()
	time.Sleep(3 * time.Minute) // what could not be stored is stored by now
	m.log("a person authorizes for good")
	token, err := m.nodes[int(m.upTo(3))].authorize()
	if err != nil {
		m.t.Errorf("not authorized: %v", err)
		return
	}
	m.provider.mu.Lock()
	family := m.provider.access[token.AccessToken]
	m.provider.mu.Unlock()
	time.Sleep(known)
	for _, n := range m.nodes {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		token, err := n.r.Token(ctx)
		cancel()
		m.provider.mu.Lock()
		if err != nil || m.provider.access[token.AccessToken] != family || family.revoked {
			m.t.Errorf("%s has another token than was authorized, or none: %v, %v", n.id, token, err)
		}
		m.provider.mu.Unlock()
	}
	m.log("and revokes it")
	if err := m.nodes[int(m.upTo(3))].revoke(); err != nil {
		m.t.Errorf("not revoked: %v", err)
		return
	}
	time.Sleep(known)
	for _, n := range m.nodes {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		token, err := n.r.Token(ctx)
		cancel()
		var u *Unavailable
		if !errors.As(err, &u) || u.Cause == nil || !u.Cause.AuthorizationRequired {
			m.t.Errorf("%s has a token that was revoked, or does not say that a person is needed: %v, %v", n.id, token, err)
		}
	}
	m.store.mu.Lock()
	defer m.store.mu.Unlock()
	if r := m.store.record; r == nil || r.token != nil {
		m.t.Error("the storage has it still")
	}
}

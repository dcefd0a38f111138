package injecttoken

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/caddytoken/inject-token/refresher"
)

// sourceStatus is what a source is up to, as the admin API and the command list
// tell it. It holds no token and no secret.
type sourceStatus struct {
	Name     string          `json:"name"`
	Grant    string          `json:"grant"`
	Provider string          `json:"provider"`
	State    refresher.State `json:"state"`

	// HasToken says whether requests are served; Refreshable whether there is a
	// refresh token, or else the grant can be begun without a person.
	HasToken    bool     `json:"has_token"`
	Refreshable bool     `json:"refreshable"`
	Scopes      []string `json:"scopes,omitempty"`

	Issued      *time.Time `json:"issued,omitempty"`
	Expires     *time.Time `json:"expires,omitempty"`
	LastRenewal *time.Time `json:"last_renewal,omitempty"`
	NextRenewal *time.Time `json:"next_renewal,omitempty"`

	Failures int            `json:"failures,omitempty"`
	Error    *sourceFailure `json:"error,omitempty"`

	// Node is this process among those that share the storage. Storage is "stored",
	// or "unsaved" where the newest token is in memory alone.
	Node    string `json:"node"`
	Storage string `json:"storage"`
	Counter uint64 `json:"counter,omitempty"`

	// Callers is how many callers are remembered, where each has a token of its own.
	Callers int `json:"callers,omitempty"`

	// Authorize is the command to run where a person is needed, and LastAuthorization
	// what has become of the last try.
	Authorize         string         `json:"authorize,omitempty"`
	LastAuthorization *authorization `json:"last_authorization,omitempty"`
}

// sourceFailure is what the last token request came to.
type sourceFailure struct {
	Code        string     `json:"code,omitempty"`
	Description string     `json:"description,omitempty"`
	Status      int        `json:"status,omitempty"`
	Message     string     `json:"message"`
	Permanent   bool       `json:"permanent"`
	RetryAt     *time.Time `json:"retry_at,omitempty"`
}

// status returns what the source is up to. Where a person is needed, another node
// may have been authorized, which the storage tells.
func (s *runningSource) status(ctx context.Context) *sourceStatus {
	s.refresher.Look(ctx)
	now := s.refresher.Status()
	out := &sourceStatus{
		Name: s.name, Grant: s.config.Grant, Provider: s.config.provider(), State: now.State,
		Refreshable: !s.needsPerson(),
		LastRenewal: known(now.LastRenewal), NextRenewal: known(now.NextRenewal),
		Callers: now.Subjects, Failures: now.Failures, Node: node, Storage: "stored", Counter: now.Counter,
	}
	if t := now.Token; t != nil {
		out.HasToken, out.Scopes = true, t.Scopes
		out.Refreshable = out.Refreshable || t.RefreshToken != ""
		out.Issued, out.Expires = known(t.Issued), known(t.Expiry())
	}
	if now.Unsaved {
		out.Storage = "unsaved"
	}
	if e := now.Failure; e != nil {
		out.Error = &sourceFailure{
			Code: e.Code, Description: e.Description, Status: e.StatusCode,
			Message: explain(e), Permanent: e.Permanent, RetryAt: known(now.RetryAt),
		}
	}
	if now.State == refresher.NeedsAuthorization {
		out.Authorize = authorizeCommand(s.name)
		if all, err := s.store.authorizations(ctx); err == nil && len(all) > 0 {
			out.LastAuthorization = all[len(all)-1].seen(time.Now())
		}
	}
	return out
}

// allStatuses returns those of all sources, by name. Of a storage that hangs, one is
// waited for and not each.
func allStatuses(ctx context.Context) []*sourceStatus {
	names := runningSources.names()
	all := make([]*sourceStatus, len(names))
	var asking sync.WaitGroup
	for i, name := range names {
		asking.Go(func() {
			if s := runningSources.byName(name); s != nil {
				all[i] = s.status(ctx)
			}
		})
	}
	asking.Wait()
	return slices.DeleteFunc(all, func(s *sourceStatus) bool { return s == nil }) // removed meanwhile
}

// known returns a time as it is told, nil where it is not known.
func known(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC().Round(0)
	return &t
}

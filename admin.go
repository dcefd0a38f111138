package injecttoken

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
)

// AdminAPI is the part of Caddy's admin API that shows the token sources and lets
// operators act on them:
//
//	GET  /token_sources/                         what all sources are up to
//	GET  /token_sources/NAME                     what one is
//	POST /token_sources/NAME/refresh             makes a token request now
//	POST /token_sources/NAME/revoke              gives the token back, and forgets it
//	POST /token_sources/NAME/authorize           begins an authorization by a person
//	POST /token_sources/NAME/complete            ends it with a code: {"code": …, "id": …}
//	GET  /token_sources/NAME/authorizations/ID   what became of it; DELETE cancels it
//
// It knows no configuration: its routes outlive one that could not be loaded.
type AdminAPI struct{}

// CaddyModule returns the Caddy module information.
func (AdminAPI) CaddyModule() caddy.ModuleInfo {
	return caddy.ModuleInfo{
		ID:  "admin.api.token_sources",
		New: func() caddy.Module { return new(AdminAPI) },
	}
}

// Routes returns the routes of the admin API.
func (AdminAPI) Routes() []caddy.AdminRoute {
	return []caddy.AdminRoute{{Pattern: adminPath, Handler: caddy.AdminHandlerFunc(serveAdmin)}}
}

const adminPath = "/token_sources/"

// maxAdminBody is far more than any code.
const maxAdminBody = 64 << 10

// completion is the body of complete.
type completion struct {
	ID   string `json:"id,omitempty"`
	Code string `json:"code"`
}

// revocation is the answer to revoke.
type revocation struct {
	Source string `json:"source"`

	// RevokedAtProvider is false where the provider has no endpoint for it.
	RevokedAtProvider bool `json:"revoked_at_provider"`
}

// adminActions are what can be done with one source.
var adminActions = map[string]func(context.Context, *runningSource, *http.Request) (any, error){
	"refresh": func(ctx context.Context, s *runningSource, _ *http.Request) (any, error) {
		if err := s.refresher.Refresh(ctx); err != nil {
			return nil, problemOf(err)
		}
		return s.status(ctx), nil
	},
	"revoke": func(_ context.Context, s *runningSource, _ *http.Request) (any, error) {
		revoked, err := s.revoke()
		return &revocation{s.name, revoked}, err
	},
	"authorize": func(ctx context.Context, s *runningSource, _ *http.Request) (any, error) {
		return s.begin(ctx)
	},
	"complete": func(ctx context.Context, s *runningSource, r *http.Request) (any, error) {
		var body completion
		if err := readBody(r, &body); err != nil {
			return nil, err
		}
		return s.complete(ctx, body.ID, body.Code)
	},
}

func serveAdmin(w http.ResponseWriter, r *http.Request) error {
	out, err := answerAdmin(w, r)
	if err != nil {
		return adminError(err)
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	return json.NewEncoder(w).Encode(out)
}

func answerAdmin(w http.ResponseWriter, r *http.Request) (any, error) {
	name, rest, _ := strings.Cut(strings.Trim(strings.TrimPrefix(r.URL.Path, adminPath), "/"), "/")
	if name == "" {
		if err := needMethod(w, r, http.MethodGet); err != nil {
			return nil, err
		}
		return allStatuses(r.Context()), nil
	}
	s := runningSources.byName(name)
	if s == nil {
		return nil, &problem{http.StatusNotFound, fmt.Sprintf("no token source is named %.100q; %s", name, didYouMean(name, runningSources.names()))}
	}
	switch action, known := adminActions[rest]; {
	case rest == "":
		if err := needMethod(w, r, http.MethodGet); err != nil {
			return nil, err
		}
		return s.status(r.Context()), nil
	case known:
		if err := needMethod(w, r, http.MethodPost); err != nil {
			return nil, err
		}
		return action(r.Context(), s, r)
	}
	id, ok := strings.CutPrefix(rest, "authorizations/")
	if !ok {
		return nil, &problem{http.StatusNotFound, "there is nothing here; a source has refresh, revoke, authorize, complete and authorizations/ID"}
	}
	if r.Method == http.MethodDelete {
		if err := needMethod(w, r, http.MethodDelete); err != nil {
			return nil, err
		}
		return s.cancel(r.Context(), id)
	}
	if err := needMethod(w, r, http.MethodGet); err != nil {
		return nil, err
	}
	a, err := s.store.loadAuthorization(r.Context(), id)
	if err != nil {
		return nil, problemOf(err)
	}
	return a.seen(time.Now()), nil
}

// needMethod also refuses what a browser sends from elsewhere. Caddy compares its
// Origin; a form that another page sends has none of these types.
func needMethod(w http.ResponseWriter, r *http.Request, method string) error {
	if r.Method != method && !(method == http.MethodGet && r.Method == http.MethodHead) {
		w.Header().Set("Allow", method)
		return &problem{http.StatusMethodNotAllowed, "this takes " + method}
	}
	if method == http.MethodGet {
		return nil
	}
	if site := r.Header.Get("Sec-Fetch-Site"); site != "" && site != "same-origin" && site != "none" {
		return &problem{http.StatusForbidden, "this was sent by a page of another site"}
	}
	if kind := r.Header.Get("Content-Type"); kind != "" || r.ContentLength > 0 {
		if media, _, _ := mime.ParseMediaType(kind); media != "application/json" {
			return &problem{http.StatusUnsupportedMediaType, "the body must be JSON, with Content-Type: application/json"}
		}
	}
	return nil
}

func readBody(r *http.Request, into any) error {
	d := json.NewDecoder(io.LimitReader(r.Body, maxAdminBody))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil || d.More() { // its text may hold the code
		return &problem{http.StatusBadRequest, `the body is not as it should be: {"code": "…"}, and "id" of the authorization where more than one is pending`}
	}
	return nil
}

func adminError(err error) error {
	status := http.StatusInternalServerError
	if p, ok := errors.AsType[*problem](err); ok {
		status = p.status
	}
	return caddy.APIError{HTTPStatus: status, Err: err}
}

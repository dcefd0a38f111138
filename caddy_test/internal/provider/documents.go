package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// The dialects of four providers, each as strict as its documentation: a wrong
// method, a credential in a second place, a parameter that is not described,
// or one that stands twice is a violation.

// only says that exactly these parameters are given, each once.
func (p *Provider) only(values url.Values, names ...string) string {
	for name, list := range values {
		if len(list) != 1 {
			return p.Violate("%s stands %d times", name, len(list))
		}
		if !slices.Contains(names, name) {
			return p.Violate("the documentation knows no parameter %s", name)
		}
	}
	for _, name := range names {
		if !values.Has(name) {
			return p.Violate("the parameter %s is missing", name)
		}
	}
	return ""
}

// isForm says that a request is a POST of a form.
func (p *Provider) isForm(r *TokenRequest) string {
	if code := p.wellFormed(r); code != "" {
		return code
	}
	if r.Method != http.MethodPost || r.Header.Get("Content-Type") != "application/x-www-form-urlencoded" {
		return p.Violate("%s with content type %q", r.Method, r.Header.Get("Content-Type"))
	}
	return ""
}

// AffinityLive takes the client's credentials as Basic or, as a last option,
// in the query, never both; the rest is a form, with a PIN (pin.go) or a refresh
// token. Its API takes the token as Authorization: Bearer or as the parameter
// _bearer_token.
var AffinityLive = Dialect{
	Path:  "/oauth2/v0/token",
	Pages: map[string]func(*Provider, http.ResponseWriter, *http.Request){pinPath: (*Provider).servePIN},
	Authorize: func(p *Provider, r *TokenRequest) string {
		id, secret, query := r.User, r.Pass, r.URL.Query()
		if code := p.isForm(r); code != "" {
			return code
		}
		if r.Basic {
			if r.URL.RawQuery != "" {
				return p.Violate("Basic and a query")
			}
		} else {
			if code := p.only(query, "client_id", "client_secret"); code != "" {
				return code
			}
			id, secret = query.Get("client_id"), query.Get("client_secret")
		}
		names := []string{"grant_type", "refresh_token"}
		if r.Form.Get("grant_type") == "authorization_code" {
			names = described(r.Form, []string{"grant_type", "code"}, "redirect_uri")
		}
		if code := p.only(r.Form, names...); code != "" {
			return code
		}
		if id != ClientID || secret != p.ExpectedSecret() {
			return "invalid_client"
		}
		switch r.Form.Get("grant_type") {
		case "authorization_code":
			return p.spendPIN(r.Form)
		case "refresh_token":
			return p.SpendRefreshToken(r.Form.Get("refresh_token"))
		}
		return "unsupported_grant_type"
	},
	BearerToken: func(r *http.Request) string {
		query := r.URL.Query()["_bearer_token"]
		switch {
		case len(query) == 0:
			return bearer(r)
		case len(query) > 1 || len(r.Header.Values("Authorization")) > 0:
			return "" // one of the two, and once
		}
		return query[0]
	},
}

// Organization takes client_credentials and refresh_token, either with Basic
// and a form, or with everything in the query of a POST without a body.
var Organization = Dialect{
	Path: "/oauth2/token",
	Authorize: func(p *Provider, r *TokenRequest) string {
		id, secret, values := r.User, r.Pass, r.Form
		names := []string{"grant_type"}
		if r.Basic {
			if code := p.isForm(r); code != "" {
				return code
			}
			if r.URL.RawQuery != "" {
				return p.Violate("Basic and a query")
			}
		} else {
			if code := p.wellFormed(r); code != "" {
				return code
			}
			if r.Method != http.MethodPost || r.Body != "" {
				return p.Violate("%s with a body of %d bytes beside a query", r.Method, len(r.Body))
			}
			values = r.URL.Query()
			id, secret = values.Get("client_id"), values.Get("client_secret")
			names = append(names, "client_id", "client_secret")
		}
		if values.Get("grant_type") == "refresh_token" {
			names = append(names, "refresh_token")
		}
		if code := p.only(values, names...); code != "" {
			return code
		}
		if id != ClientID || secret != p.ExpectedSecret() {
			return "invalid_client"
		}
		switch values.Get("grant_type") {
		case "client_credentials":
			return ""
		case "refresh_token":
			return p.SpendRefreshToken(values.Get("refresh_token"))
		}
		return "unsupported_grant_type"
	},
}

// Tenant is the one that ConfigAPI knows.
const Tenant = "example.com"

// ConfigAPI wants a form with the tenant, and answers in JSON that ends in a
// comma, with expires_in as a text.
var ConfigAPI = Dialect{
	Path: "/configapi/v2/oauth/token",
	Authorize: func(p *Provider, r *TokenRequest) string {
		if r.Basic || r.URL.RawQuery != "" {
			return p.Violate("something outside of the form")
		}
		if code := p.isForm(r); code != "" {
			return code
		}
		if code := p.only(r.Form, "grant_type", "client_id", "client_secret", "tenant"); code != "" {
			return code
		}
		switch {
		case r.Form.Get("grant_type") != "client_credentials":
			return "unsupported_grant_type"
		case r.Form.Get("client_id") != ClientID || r.Form.Get("client_secret") != p.ExpectedSecret():
			return "invalid_client"
		case r.Form.Get("tenant") != Tenant:
			return p.Violate("the tenant %q", r.Form.Get("tenant"))
		}
		return ""
	},
	Write: func(w http.ResponseWriter, t Token) {
		fmt.Fprintf(w, `{ "access_token":"%s", "token_type":"Bearer", "expires_in":"%d", }`, t.Access, int(t.Lifetime.Seconds()))
	},
}

// Axosoft wants a GET with everything in the query, and never says how long a
// token lives. A scope may be left out; all errors are 400.
var Axosoft = Dialect{
	Path: "/api/oauth2/token",
	Authorize: func(p *Provider, r *TokenRequest) string {
		if r.Method != http.MethodGet || r.Body != "" || r.Basic {
			return p.Violate("%s with a body of %d bytes; Basic: %v", r.Method, len(r.Body), r.Basic)
		}
		if code := p.wellFormed(r); code != "" {
			return code
		}
		query := r.URL.Query()
		names := []string{"grant_type", "username", "password", "client_id", "client_secret"}
		if query.Has("scope") {
			names = append(names, "scope")
		}
		if code := p.only(query, names...); code != "" {
			return code
		}
		switch {
		case query.Get("grant_type") != "password":
			return "unsupported_grant_type"
		case query.Get("client_id") != ClientID || query.Get("client_secret") != p.ExpectedSecret():
			return "invalid_client"
		case query.Has("scope") && !slices.Contains([]string{"read", "write", "read write", "write read"}, query.Get("scope")):
			return "invalid_scope"
		case query.Get("username") != Username || query.Get("password") != Password:
			return "invalid_grant"
		}
		return ""
	},
	Write: func(w http.ResponseWriter, t Token) {
		_ = json.NewEncoder(w).Encode(map[string]any{
			"access_token": t.Access,
			"token_type":   "bearer",
			"data":         map[string]any{"id": 7, "first_name": "Cathy", "last_name": "O'Reilly (Dev)", "email": "cathy@example.com"},
		})
	},
	WriteError: func(w http.ResponseWriter, code string) {
		description := "The request was not accepted"
		if code == "invalid_grant" {
			description = "Invalid username or password"
		}
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusBadRequest)
		_ = json.NewEncoder(w).Encode(map[string]string{"error": code, "error_description": description})
	},
}

package provider

import (
	"net/http"
	"slices"
	"time"
)

const revokePath = "/revoke"

// Revocation is a request that arrived at the revocation endpoint.
type Revocation struct {
	At     time.Time
	Token  string
	Hint   string // token_type_hint
	Status int    // what was answered
}

// RevokeURL is the address of the revocation endpoint.
func (p *Provider) RevokeURL() string { return p.URL + revokePath }

// Revocations returns the requests to the revocation endpoint so far.
func (p *Provider) Revocations() []*Revocation {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.revocations)
}

// ServeRevoke is the revocation endpoint (RFC 7009): with a refresh token the
// whole grant ends, with an access token it alone.
func (p *Provider) ServeRevoke(w http.ResponseWriter, r *http.Request) {
	request, err := readTokenRequest(r)
	if err != nil {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	seen := &Revocation{At: request.At, Token: request.Form.Get("token"), Hint: request.Form.Get("token_type_hint"), Status: http.StatusOK}
	p.revocations = append(p.revocations, seen)
	if p.person.RevokeStatus != 0 {
		seen.Status = p.person.RevokeStatus
		writeError(w, seen.Status, "")
		return
	}
	code := p.client(request)
	if code == "" && (seen.Token == "" || !slices.Contains([]string{"", "access_token", "refresh_token"}, seen.Hint)) {
		code = p.Violate("a revocation of a token of %d characters with the hint %q", len(seen.Token), seen.Hint)
	}
	if code != "" {
		seen.Status = http.StatusBadRequest
		if code == "invalid_client" {
			seen.Status = http.StatusUnauthorized
		}
		p.refuse(w, code)
		return
	}
	if t := p.refresh[seen.Token]; t != nil {
		t.family.revoked = true
	} else if t := p.access[seen.Token]; t != nil {
		t.revoked = true
	}
}

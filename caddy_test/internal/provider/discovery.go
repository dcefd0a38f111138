package provider

import (
	"cmp"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
)

// Metadata is the document in which a provider says where its endpoints are:
// RFC 8414's, and OpenID Connect Discovery's before it. The zero value says
// nothing, at neither place.
type Metadata struct {
	// OpenID and OAuth are the two places. Of an issuer with a path, the one is
	// behind the path, and the other before it.
	OpenID, OAuth bool

	// Base is where the endpoints are; empty: the provider's URL.
	Base string

	// Path of the issuer, such as /tenant; it follows Base.
	Path string

	// Iss says that authorization responses hold the parameter iss (RFC 9207).
	Iss bool

	// Change spoils the document before it is sent.
	Change func(document map[string]any)

	// Answer is what comes instead of the document.
	Answer http.HandlerFunc
}

const (
	openIDPath = "/.well-known/openid-configuration"
	oauthPath  = "/.well-known/oauth-authorization-server"
)

// Announce sets the provider's metadata.
func (p *Provider) Announce(m Metadata) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.metadata = m
}

// Issuer is the provider's identifier.
func (p *Provider) Issuer() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.metadata.issuer(p)
}

func (m Metadata) issuer(p *Provider) string { return cmp.Or(m.Base, p.URL) + m.Path }

// Discovered returns the paths at which metadata was asked for, in their order.
func (p *Provider) Discovered() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.discovered)
}

func isWellKnown(path string) bool { return strings.Contains(path, "/.well-known/") }

// serveMetadata answers at the well-known places.
func (p *Provider) serveMetadata(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	m := p.metadata
	p.discovered = append(p.discovered, r.URL.Path)
	if r.Method != http.MethodGet || r.URL.RawQuery != "" || r.ContentLength > 0 || r.Header["Authorization"] != nil || r.Header["Cookie"] != nil {
		p.Violate("metadata is asked for by %s %s with %d bytes and %d fields", r.Method, r.URL.RequestURI(), r.ContentLength, len(r.Header))
	}
	p.mu.Unlock()
	isThere := m.OpenID && r.URL.Path == m.Path+openIDPath || m.OAuth && r.URL.Path == oauthPath+m.Path
	if !isThere {
		http.NotFound(w, r)
		return
	}
	if m.Answer != nil {
		m.Answer(w, r)
		return
	}
	document := p.document(m)
	if m.Change != nil {
		m.Change(document)
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(document)
}

func (p *Provider) document(m Metadata) map[string]any {
	base := cmp.Or(m.Base, p.URL)
	document := map[string]any{
		"issuer":                                m.issuer(p),
		"authorization_endpoint":                base + authorizePath,
		"token_endpoint":                        base + p.path(),
		"device_authorization_endpoint":         base + devicePath,
		"revocation_endpoint":                   base + revokePath,
		"response_types_supported":              []string{"code"},
		"grant_types_supported":                 []string{"authorization_code", "refresh_token", "urn:ietf:params:oauth:grant-type:device_code"},
		"token_endpoint_auth_methods_supported": []string{"client_secret_basic", "client_secret_post"},
		"code_challenge_methods_supported":      []string{"plain", "S256"},
	}
	if m.Iss {
		document["authorization_response_iss_parameter_supported"] = true
	}
	return document
}

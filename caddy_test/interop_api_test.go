package caddy_test

import (
	"crypto"
	"crypto/sha256"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"
)

// binding is what an API wants to see beside a token.
type binding int

const (
	bearer          binding = iota // nothing
	withCertificate                // the certificate that the token is bound to (RFC 8705)
	withProof                      // a proof of the key that it is bound to (RFC 9449)
	withFreshProof                 // one that holds a nonce of the API's
)

// introspection is what a server says of a token (RFC 7662).
type introspection struct {
	Active bool
	Scope  string
	Bound  struct {
		Certificate string `json:"x5t#S256"`
		Key         string `json:"jkt"`
	} `json:"cnf"`
}

// interopAPI is an API that asks the server that issued a token about it.
type interopAPI struct {
	*httptest.Server
	server  *interopServer
	binding binding

	mu      sync.Mutex // guards what follows
	tokens  []string   // that were good, each once
	refused []string   // why
	proofs  map[string]bool
}

func newInteropAPI(t *testing.T, server *interopServer, b binding, k *interopKeys) *interopAPI {
	t.Helper()
	api := &interopAPI{server: server, binding: b, proofs: make(map[string]bool)}
	api.Server = httptest.NewUnstartedServer(api)
	if b != bearer {
		api.TLS = &tls.Config{Certificates: []tls.Certificate{k.server.tls()}, ClientAuth: tls.RequestClientCert, MinVersion: tls.VersionTLS12}
		api.StartTLS()
	} else {
		api.Start()
	}
	t.Cleanup(api.Close)
	return api
}

func (a *interopAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	scope, err := a.check(w, r)
	if err != nil {
		a.mu.Lock()
		a.refused = append(a.refused, err.Error())
		a.mu.Unlock()
		if w.Header().Get("WWW-Authenticate") == "" {
			w.Header().Set("WWW-Authenticate", a.scheme()+` error="invalid_token"`)
		}
		http.Error(w, err.Error(), http.StatusUnauthorized)
		return
	}
	fmt.Fprint(w, "good: ", scope)
}

func (a *interopAPI) scheme() string {
	if a.binding == withProof || a.binding == withFreshProof {
		return "DPoP"
	}
	return "Bearer"
}

// check returns the scope of a request's token.
func (a *interopAPI) check(w http.ResponseWriter, r *http.Request) (scope string, err error) {
	token, found := strings.CutPrefix(r.Header.Get("Authorization"), a.scheme()+" ")
	if !found {
		return "", fmt.Errorf("there is no %s token", a.scheme())
	}
	facts, err := a.server.introspect(token)
	if err != nil {
		return "", err
	}
	if !facts.Active {
		return "", errors.New("the server does not know this token, or no more")
	}
	switch a.binding {
	case withCertificate:
		if len(r.TLS.PeerCertificates) == 0 || facts.Bound.Certificate != thumbprint(r.TLS.PeerCertificates[0]) {
			return "", errors.New("the token is not bound to this connection's certificate")
		}
	case withProof, withFreshProof:
		key, err := a.proof(w, r, token)
		if err != nil {
			return "", err
		}
		if facts.Bound.Key != key {
			return "", errors.New("the token is not bound to the proof's key")
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if !slices.Contains(a.tokens, token) {
		a.tokens = append(a.tokens, token)
	}
	return facts.Scope, nil
}

// apiNonce is the nonce that the API wants to see in a proof.
const apiNonce = "a-nonce-of-the-apis"

// proof checks a request's DPoP proof as RFC 9449, section 4.3, says, and returns
// the thumbprint of its key.
func (a *interopAPI) proof(w http.ResponseWriter, r *http.Request, token string) (key string, err error) {
	if len(r.Header.Values("DPoP")) != 1 {
		return "", fmt.Errorf("there are %d proofs", len(r.Header.Values("DPoP")))
	}
	proof, err := jose.ParseSigned(r.Header.Get("DPoP"), []jose.SignatureAlgorithm{jose.ES256, jose.RS256, jose.PS256, jose.EdDSA})
	if err != nil {
		return "", fmt.Errorf("the proof: %w", err)
	}
	header := proof.Signatures[0].Protected
	if header.ExtraHeaders["typ"] != "dpop+jwt" || header.JSONWebKey == nil || !header.JSONWebKey.IsPublic() {
		return "", fmt.Errorf("the proof's header is %+v", header)
	}
	text, err := proof.Verify(header.JSONWebKey)
	if err != nil {
		return "", fmt.Errorf("the proof: %w", err)
	}
	var claims struct {
		ID     string `json:"jti"`
		Method string `json:"htm"`
		URL    string `json:"htu"`
		Hash   string `json:"ath"`
		Issued int64  `json:"iat"`
		Nonce  string `json:"nonce"`
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return "", fmt.Errorf("the proof: %w", err)
	}
	sum := sha256.Sum256([]byte(token))
	switch {
	case claims.Method != r.Method:
		return "", fmt.Errorf("the proof is of a %s", claims.Method)
	case claims.URL != a.URL+r.URL.EscapedPath(): // by its own name, whatever the caller has asked for
		return "", fmt.Errorf("the proof is for %s", claims.URL)
	case claims.Hash != base64.RawURLEncoding.EncodeToString(sum[:]):
		return "", errors.New("the proof is for another token")
	case time.Since(time.Unix(claims.Issued, 0)).Abs() > time.Minute:
		return "", errors.New("the proof is of another time")
	case a.binding == withFreshProof && claims.Nonce != apiNonce:
		w.Header().Set("DPoP-Nonce", apiNonce)
		w.Header().Set("WWW-Authenticate", `DPoP error="use_dpop_nonce"`)
		return "", errors.New("the proof needs a nonce")
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if claims.ID == "" || a.proofs[claims.ID] {
		return "", errors.New("the proof was here before")
	}
	a.proofs[claims.ID] = true
	digest, err := header.JSONWebKey.Thumbprint(crypto.SHA256)
	return base64.RawURLEncoding.EncodeToString(digest), err
}

// seen returns the tokens that were good, in the order in which they came, and
// why others were refused.
func (a *interopAPI) seen() (tokens, refused []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	return slices.Clone(a.tokens), slices.Clone(a.refused)
}

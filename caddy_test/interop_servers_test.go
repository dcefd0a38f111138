package caddy_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/caddytoken/inject-token/caddy_test/internal/harness"
)

// interopServer is an authorization server that others have written, in a process
// of its own.
type interopServer struct {
	word        string // for names
	name, about string // as the document has them
	paths       map[string]string
	start       func(*interopWorld) (host string)
	introspect  func(token string) (introspection, error)

	host  string
	tls   string // its address with TLS, where it has one
	nonce string // its address at which DPoP needs nonces
}

// interopWorld is what all rows of the table share.
type interopWorld struct {
	t     *testing.T
	keys  *interopKeys
	sites map[string]string // of each row: its address
}

// url is the address of an endpoint, at the server or at what stands before it.
func (s *interopServer) url(base, endpoint string) string {
	if path, has := s.paths[endpoint]; has {
		return base + path
	}
	return ""
}

// theServers are those of the document, in its order.
func theServers() []*interopServer {
	oidc := &interopServer{
		word:  "oidc",
		name:  "oidc-provider",
		about: "[oidc-provider](https://github.com/panva/node-oidc-provider) 9.13.3, with its own pages to log in and to consent. Token exchange and assertions as grants are what it lets its users add.",
		paths: map[string]string{"token": "/token", "authorize": "/auth", "device": "/device/auth", "revoke": "/token/revocation", "issuer": ""},
	}
	oidc.start = oidc.startOIDC
	oidc.introspect = func(token string) (introspection, error) {
		return askAbout("http://"+oidc.host+"/token/introspection", "api", apiSecret, token)
	}
	zitadel := &interopServer{
		word:  "zitadel",
		name:  "zitadel/oidc",
		about: "The example server of [zitadel/oidc](https://github.com/zitadel/oidc) 3.51.17.",
		paths: map[string]string{"token": "/oauth/token", "authorize": "/auth", "device": "/device_authorization", "revoke": "/revoke", "issuer": "/"},
	}
	zitadel.start = startZitadel
	zitadel.introspect = func(token string) (introspection, error) {
		return askAbout("http://"+zitadel.host+"/oauth/introspect", "api", "secret", token)
	}
	fosite := &interopServer{
		word:  "fosite",
		name:  "fosite",
		about: "[ory/fosite](https://github.com/ory/fosite) 0.49.0 with everything enabled.",
		paths: map[string]string{"token": "/oauth2/token", "authorize": "/oauth2/auth", "revoke": "/oauth2/revoke"},
	}
	fosite.start = startFosite
	fosite.introspect = func(token string) (introspection, error) {
		return askAbout("http://"+fosite.host+"/oauth2/introspect", "my-client", "foobar", token)
	}
	goOAuth2 := &interopServer{
		word:  "gooauth2",
		name:  "go-oauth2",
		about: "[go-oauth2/oauth2](https://github.com/go-oauth2/oauth2) 4.5.4, whose refresh tokens are spent once.",
		paths: map[string]string{"token": "/token", "authorize": "/authorize"},
	}
	goOAuth2.start = func(w *interopWorld) string { return harness.StartServer(w.t, "gooauth2") }
	goOAuth2.introspect = func(token string) (introspection, error) { return checkAt("http://"+goOAuth2.host+"/check", token) }
	mock := &interopServer{
		word:  "mock",
		name:  "oauth2-mock-server",
		about: "[oauth2-mock-server](https://github.com/axa-group/oauth2-mock-server) 8.2.3, which takes whatever client, name and password there is. The API verifies its tokens, which are signed.",
		paths: map[string]string{"token": "/token", "authorize": "/authorize"},
	}
	mock.start = func(w *interopWorld) string { return harness.StartNodeServer(w.t, "mock") }
	mock.introspect = func(token string) (introspection, error) { return verify("http://"+mock.host+"/jwks", token) }
	return []*interopServer{oidc, zitadel, fosite, goOAuth2, mock}
}

const (
	apiSecret    = "secret-of-the-api-0123456789"
	clientSecret = "client-secret-0123456789-0123456789" // of all clients at oidc-provider
)

func (s *interopServer) startOIDC(w *interopWorld) string {
	tlsPort, noncePort := harness.Port(w.t), harness.Port(w.t)
	s.tls, s.nonce = "https://127.0.0.1:"+itoa(tlsPort), "http://127.0.0.1:"+itoa(noncePort)
	return harness.StartNodeScript(w.t, "oidc", "interop", "CONFIG="+writeJSON(w.t, map[string]any{
		"clients":   w.oidcClients(),
		"lifetime":  interopLifetime,
		"lifetimes": map[string]int{"exchange-caller": 3}, // a caller's token is asked for anew when it has ended
		"issuers":   map[string]any{assertionIssuer: w.keys.jwk("RS256")},
		"noncePort": noncePort,
		"tls": map[string]any{
			"port": tlsPort, "key": w.keys.server.keyInPEM(w.t), "cert": w.keys.server.pem(), "ca": w.keys.ca.pem(),
		},
	}))
}

func startZitadel(w *interopWorld) string {
	file := filepath.Join(w.t.TempDir(), "service.pem")
	if err := os.WriteFile(file, []byte(publicPEM(w.t, w.keys.signer["RS256"])), 0o600); err != nil {
		w.t.Fatal(err)
	}
	return harness.StartServer(w.t, "zitadel", "-redirect", w.callbacks(), "-service-key", file)
}

func startFosite(w *interopWorld) string {
	clients := make(map[string]jose.JSONWebKey)
	for _, alg := range []string{"RS256", "PS256", "ES256"} {
		clients["key-"+strings.ToLower(alg)] = w.keys.jwk(alg)
	}
	return harness.StartServer(w.t, "fosite", "-lifetime", itoa(interopLifetime)+"s", "-redirect", w.callbacks(), "-keys", writeJSON(w.t, map[string]any{
		"clients": clients,
		"issuers": map[string]any{assertionIssuer: w.keys.jwk("RS256")},
	}))
}

// askAbout asks a server about a token (RFC 7662).
func askAbout(endpoint, client, secret, token string) (facts introspection, err error) {
	req, err := http.NewRequest(http.MethodPost, endpoint, strings.NewReader(url.Values{"token": {token}}.Encode()))
	if err != nil {
		return facts, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.SetBasicAuth(client, secret)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return facts, err
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&facts); err != nil {
		return facts, fmt.Errorf("introspection answered %d: %w", resp.StatusCode, err)
	}
	return facts, nil
}

// checkAt has a server's own API look at a token.
func checkAt(endpoint, token string) (facts introspection, err error) {
	req, err := http.NewRequest(http.MethodGet, endpoint, nil)
	if err != nil {
		return facts, err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return facts, err
	}
	defer resp.Body.Close()
	facts.Active = resp.StatusCode == http.StatusOK
	return facts, nil
}

// verify looks at the signature and the times of a token that is a JWT, as an API
// does whose server tells nobody about tokens.
func verify(keys, token string) (facts introspection, err error) {
	resp, err := http.Get(keys)
	if err != nil {
		return facts, err
	}
	defer resp.Body.Close()
	var set jose.JSONWebKeySet
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		return facts, err
	}
	if err := json.Unmarshal(body, &set); err != nil {
		return facts, err
	}
	signed, err := jose.ParseSigned(token, []jose.SignatureAlgorithm{jose.RS256})
	if err != nil {
		return facts, err
	}
	text, err := signed.Verify(&set)
	if err != nil {
		return facts, err
	}
	var claims struct {
		Expires int64 `json:"exp"`
		Scope   string
	}
	if err := json.Unmarshal(text, &claims); err != nil {
		return facts, err
	}
	if claims.Expires < unixNow() {
		return facts, errors.New("the token has ended")
	}
	return introspection{Active: true, Scope: claims.Scope}, nil
}

// password is that of the user peter, where the server has the grant.
func (s *interopServer) password() string {
	return map[string]string{"fosite": "secret", "gooauth2": "secret", "mock": "any"}[s.word]
}

// unixNow is the time in seconds.
func unixNow() int64 { return time.Now().Unix() }

// fositeAudience is whom assertions to fosite are for.
const fositeAudience = "https://fosite.example/oauth2/token"

// assertionIssuer is who signs assertions that are grants.
const assertionIssuer = "https://idp.example.org"

// refusals is how many token requests of a client oidc-provider has refused.
func (s *interopServer) refusals(t *testing.T, client string) int {
	t.Helper()
	_, body := harness.Get(t, "http://"+s.host+"/stats")
	var stats map[string]struct{ Refused int }
	if err := json.Unmarshal([]byte(body), &stats); err != nil {
		t.Fatal(err)
	}
	return stats[client].Refused
}

// oidcClients are the clients at oidc-provider, each for a row.
func (w *interopWorld) oidcClients() []map[string]any {
	clients := []map[string]any{newOIDCClient("api", map[string]any{"client_secret": apiSecret})}
	for _, o := range theOffers["oidc"] {
		if o.absent == "" {
			clients = append(clients, newOIDCClient(o.way, w.oidcClient(o)))
		}
	}
	return clients
}

const deviceGrant = "urn:ietf:params:oauth:grant-type:device_code"

// oidcClient is what is registered of a row's client.
func (w *interopWorld) oidcClient(o offer) map[string]any {
	redirect := w.sites["oidc "+o.way] + "/callback"
	person := map[string]any{"grant_types": []string{"authorization_code", "refresh_token"}, "response_types": []string{"code"}, "redirect_uris": []string{redirect}, "client_secret": clientSecret}
	public := maps.Clone(person)
	maps.Copy(public, map[string]any{"token_endpoint_auth_method": "none", "application_type": "native"})
	delete(public, "client_secret")
	way := wayOf(o.way)
	switch o.way {
	case "cc-secret-jwt":
		return map[string]any{"client_secret": clientSecret, "token_endpoint_auth_method": "client_secret_jwt", "token_endpoint_auth_signing_alg": "HS256"}
	case "cc-rs256", "cc-ps256", "cc-es256", "cc-eddsa":
		return map[string]any{"token_endpoint_auth_method": "private_key_jwt", "token_endpoint_auth_signing_alg": way.alg, "jwks": jwks(w.keys.jwk(way.alg))}
	case "code-key":
		keyed := maps.Clone(person)
		maps.Copy(keyed, map[string]any{"token_endpoint_auth_method": "private_key_jwt", "jwks": jwks(w.keys.jwk(way.alg))})
		delete(keyed, "client_secret")
		return keyed
	case "cc-tls":
		return map[string]any{"token_endpoint_auth_method": "tls_client_auth", "tls_client_auth_subject_dn": "CN=crm-client,O=Example", "tls_client_certificate_bound_access_tokens": true}
	case "cc-self-signed":
		return map[string]any{"token_endpoint_auth_method": "self_signed_tls_client_auth", "jwks": jwks(certificateJWK(w.keys.selfSigned)), "tls_client_certificate_bound_access_tokens": true}
	case "cc-dpop", "cc-dpop-nonce":
		return map[string]any{"client_secret": clientSecret, "dpop_bound_access_tokens": true}
	case "code-dpop":
		public["dpop_bound_access_tokens"] = true
		return public
	case "exchange-file", "exchange-source", "exchange-caller":
		return map[string]any{"client_secret": clientSecret, "grant_types": []string{"urn:ietf:params:oauth:grant-type:token-exchange"}}
	case "bearer-secret":
		return map[string]any{"client_secret": clientSecret, "grant_types": []string{"urn:ietf:params:oauth:grant-type:jwt-bearer"}}
	case "cc-post":
		return map[string]any{"client_secret": clientSecret, "token_endpoint_auth_method": "client_secret_post"}
	case "code-secret", "refresh":
		return person
	case "code-public":
		return public
	case "device-public":
		return map[string]any{"token_endpoint_auth_method": "none", "application_type": "native", "grant_types": []string{deviceGrant, "refresh_token"}}
	case "device-secret":
		return map[string]any{"client_secret": clientSecret, "grant_types": []string{deviceGrant, "refresh_token"}}
	}
	return map[string]any{"client_secret": clientSecret}
}

// newOIDCClient is a client for client_credentials, except where it is said
// otherwise.
func newOIDCClient(id string, more map[string]any) map[string]any {
	client := map[string]any{
		"client_id": id, "token_endpoint_auth_method": "client_secret_basic", "scope": "offline_access api",
		"grant_types": []string{"client_credentials"}, "response_types": []string{}, "redirect_uris": []string{},
	}
	maps.Copy(client, more)
	return client
}

// Command fosite is an authorization server by ory/fosite, with everything
// enabled and its example store, for tests: client my-client with the secret
// foobar, client native without one, user peter with the password secret. With -keys
// there are clients and issuers more, which sign; audience is whom they must sign
// for.
package main

import (
	"crypto/rand"
	"crypto/rsa"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v3"
	"github.com/ory/fosite"
	"github.com/ory/fosite/compose"
	"github.com/ory/fosite/handler/openid"
	"github.com/ory/fosite/storage"
	"github.com/ory/fosite/token/jwt"
)

func main() {
	lifetime := flag.Duration("lifetime", time.Minute, "of an access token")
	keys := flag.String("keys", "", "JSON file: {\"clients\": {ID: JWK, …}, \"issuers\": {ID: JWK, …}}")
	redirect := flag.String("redirect", "http://localhost:3846/callback", "redirect URIs of my-client, with blanks between")
	flag.Parse()
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		log.Fatal(err)
	}
	store := storage.NewExampleStore()
	store.BlacklistedJTIs = make(map[string]time.Time)
	redirects := strings.Fields(*redirect)
	store.Clients["my-client"].(*fosite.DefaultClient).RedirectURIs = redirects
	native := newClient("native", redirects)
	native.Public = true
	store.Clients["native"] = native
	addKeys(store, *keys, redirects)
	provider := compose.ComposeAllEnabled(&fosite.Config{
		AccessTokenLifespan:                 *lifetime,
		GlobalSecret:                        []byte("a-secret-of-this-test-of-32-byte"),
		RefreshTokenScopes:                  []string{"offline"},
		TokenURL:                            audience,
		GrantTypeJWTBearerCanSkipClientAuth: true,
	}, store, key)

	http.HandleFunc("/oauth2/token", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		request, err := provider.NewAccessRequest(ctx, r, session("peter"))
		if err != nil {
			provider.WriteAccessError(ctx, w, request, err)
			return
		}
		if grants := request.GetGrantTypes(); grants.ExactOne("client_credentials") || grants.ExactOne("password") {
			for _, scope := range request.GetRequestedScopes() {
				request.GrantScope(scope)
			}
		}
		response, err := provider.NewAccessResponse(ctx, request)
		if err != nil {
			provider.WriteAccessError(ctx, w, request, err)
			return
		}
		provider.WriteAccessResponse(ctx, w, request, response)
	})
	http.HandleFunc("/oauth2/auth", func(w http.ResponseWriter, r *http.Request) {
		ctx := r.Context()
		request, err := provider.NewAuthorizeRequest(ctx, r)
		if err != nil {
			provider.WriteAuthorizeError(ctx, w, request, err)
			return
		}
		if r.PostFormValue("username") != "peter" { // whoever says so
			fmt.Fprint(w, `<form method="post"><input name="username"><button type="submit">Yes</button></form>`)
			return
		}
		for _, scope := range request.GetRequestedScopes() {
			request.GrantScope(scope)
		}
		response, err := provider.NewAuthorizeResponse(ctx, request, session("peter"))
		if err != nil {
			provider.WriteAuthorizeError(ctx, w, request, err)
			return
		}
		provider.WriteAuthorizeResponse(ctx, w, request, response)
	})
	http.HandleFunc("/oauth2/revoke", func(w http.ResponseWriter, r *http.Request) {
		provider.WriteRevocationResponse(r.Context(), w, provider.NewRevocationRequest(r.Context(), r))
	})
	http.HandleFunc("/oauth2/introspect", func(w http.ResponseWriter, r *http.Request) {
		response, err := provider.NewIntrospectionRequest(r.Context(), r, session(""))
		if err != nil {
			provider.WriteIntrospectionError(r.Context(), w, err)
			return
		}
		provider.WriteIntrospectionResponse(r.Context(), w, response)
	})
	serve()
}

// audience is what assertions are for: the address of the token endpoint as the
// world knows it.
const audience = "https://fosite.example/oauth2/token"

func newClient(id string, redirects []string) *fosite.DefaultClient {
	return &fosite.DefaultClient{
		ID:            id,
		RedirectURIs:  redirects,
		ResponseTypes: []string{"code"},
		GrantTypes:    []string{"client_credentials", "authorization_code", "refresh_token"},
		Scopes:        []string{"fosite", "offline"},
	}
}

// addKeys registers the clients and issuers of a file.
func addKeys(store *storage.MemoryStore, file string, redirects []string) {
	if file == "" {
		return
	}
	text, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	var added struct{ Clients, Issuers map[string]jose.JSONWebKey }
	if err := json.Unmarshal(text, &added); err != nil {
		log.Fatal(err)
	}
	for id, key := range added.Clients {
		store.Clients[id] = &fosite.DefaultOpenIDConnectClient{
			DefaultClient:                     newClient(id, redirects),
			JSONWebKeys:                       &jose.JSONWebKeySet{Keys: []jose.JSONWebKey{key}},
			TokenEndpointAuthMethod:           "private_key_jwt",
			TokenEndpointAuthSigningAlgorithm: key.Algorithm,
		}
	}
	for id, key := range added.Issuers {
		store.IssuerPublicKeys[id] = storage.IssuerPublicKeys{Issuer: id, KeysBySub: map[string]storage.SubjectPublicKeys{
			"peter": {Subject: "peter", Keys: map[string]storage.PublicKeyScopes{key.KeyID: {Key: &key, Scopes: []string{"fosite"}}}},
		}}
	}
}

func session(user string) *openid.DefaultSession {
	now := time.Now()
	return &openid.DefaultSession{
		Subject: user,
		Claims:  &jwt.IDTokenClaims{Subject: user, ExpiresAt: now.Add(time.Hour), IssuedAt: now, RequestedAt: now, AuthTime: now},
		Headers: &jwt.Headers{Extra: map[string]any{}},
	}
}

// serve listens on a free port of loopback and tells which in its first line.
func serve() {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	println("listening on " + l.Addr().String())
	log.Fatal(http.Serve(l, nil))
}

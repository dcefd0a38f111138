// Command zitadel is the example server of zitadel/oidc, for tests: the service
// user sid1 with the secret verysecret; the clients web, callers and device with the
// secret "secret", native, which has none, and keyed and the service user "service",
// which have the key of -service-key; the user peter with the password verysecure.
// An API asks it about tokens as the client api.
package main

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"flag"
	"log"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/zitadel/oidc/v3/example/server/exampleop"
	"github.com/zitadel/oidc/v3/example/server/storage"
	"github.com/zitadel/oidc/v3/pkg/oidc"
	"github.com/zitadel/oidc/v3/pkg/op"
)

func main() {
	redirect := flag.String("redirect", "http://127.0.0.1/callback", "redirect URIs of web and native, with blanks between")
	serviceKey := flag.String("service-key", "", "file with the public key of the service user, in PEM")
	flag.Parse()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		log.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(l.Addr().String())
	issuer := "http://localhost:" + port + "/"
	redirects := strings.Fields(*redirect)
	storage.RegisterClients(
		storage.WebClient("web", "secret", redirects...),
		storage.NativeClient("native", redirects...),
		storage.WebClient("callers", "secret"),
		storage.WebClient("keyed", "", redirects...),
		storage.DeviceClient("device", "secret"),
		storage.WebClient("sid1", "verysecret"), // who wants to revoke must be a client as well
		storage.WebClient("api", "secret"),
	)
	s := &store{
		Storage: storage.NewStorage(users{storage.NewUserStore(issuer)}),
		api:     []string{"web", "native", "keyed", "callers", "device", "sid1", issuer},
		key:     readKey(*serviceKey),
	}
	quiet := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	println("listening on localhost:" + port)
	log.Fatal(http.Serve(l, exampleop.SetupServer(issuer, s, quiet, false)))
}

func readKey(file string) any {
	if file == "" {
		return nil
	}
	text, err := os.ReadFile(file)
	if err != nil {
		log.Fatal(err)
	}
	block, _ := pem.Decode(text)
	key, err := x509.ParsePKIXPublicKey(block.Bytes)
	if err != nil {
		log.Fatal(err)
	}
	return key
}

// store is the example's, with what its own cannot do.
type store struct {
	*storage.Storage
	api []string // audiences of tokens that are for the client api
	key any      // of the service user
}

// SetIntrospectionFromToken tells the client api of all tokens: the example tells
// a client of its own alone.
func (s *store) SetIntrospectionFromToken(ctx context.Context, answer *oidc.IntrospectionResponse, tokenID, subject, clientID string) error {
	if clientID != "api" {
		return s.Storage.SetIntrospectionFromToken(ctx, answer, tokenID, subject, clientID)
	}
	var err error
	for _, audience := range s.api {
		if err = s.Storage.SetIntrospectionFromToken(ctx, answer, tokenID, subject, audience); err == nil {
			return nil
		}
	}
	return err
}

// RevokeToken revokes tokens also of which the example has not noted whose they are:
// those that came without a person at an authorization endpoint.
func (s *store) RevokeToken(ctx context.Context, token, user, client string) *oidc.Error {
	err := s.Storage.RevokeToken(ctx, token, user, client)
	if err != nil && s.Storage.RevokeToken(ctx, token, user, "") == nil {
		return nil
	}
	return err
}

// CreateAccessAndRefreshTokens has the tokens of the client callers end after three
// seconds, and all others after five minutes.
func (s *store) CreateAccessAndRefreshTokens(ctx context.Context, request op.TokenRequest, refreshToken string) (id, next string, expires time.Time, err error) {
	id, next, expires, err = s.Storage.CreateAccessAndRefreshTokens(ctx, request, refreshToken)
	if exchange, ok := request.(op.TokenExchangeRequest); ok && exchange.GetClientID() == "callers" {
		expires = time.Now().Add(3 * time.Second)
	}
	return id, next, expires, err
}

// GetClientByClientID knows a client that the example has none of: one with a key.
func (s *store) GetClientByClientID(ctx context.Context, id string) (op.Client, error) {
	client, err := s.Storage.GetClientByClientID(ctx, id)
	if err == nil && id == "keyed" {
		return keyed{client}, nil
	}
	return client, err
}

// keyed is a client that proves itself by a key.
type keyed struct{ op.Client }

func (keyed) AuthMethod() oidc.AuthMethod { return oidc.AuthMethodPrivateKeyJWT }

// GetKeyByIDAndClientID has a key that was made for this run.
func (s *store) GetKeyByIDAndClientID(_ context.Context, id, _ string) (*jose.JSONWebKey, error) {
	return &jose.JSONWebKey{KeyID: id, Use: "sig", Key: s.key}, nil
}

var (
	_ op.Storage                  = (*store)(nil)
	_ op.ClientCredentialsStorage = (*store)(nil)
	_ op.TokenExchangeStorage     = (*store)(nil)
)

// users has a user peter, and one for each client that acts for itself.
type users struct{ storage.UserStore }

func (u users) GetUserByUsername(name string) *storage.User {
	if name == "peter" {
		name = "test-user@localhost"
	}
	return u.UserStore.GetUserByUsername(name)
}

func (u users) GetUserByID(id string) *storage.User {
	if user := u.UserStore.GetUserByID(id); user != nil {
		return user
	}
	return &storage.User{ID: id, Username: id, IsAdmin: true}
}

package tokensource

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"sync"
	"testing"
)

// testRSA is made once: that takes a while.
var testRSA = sync.OnceValue(func() *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		panic(err)
	}
	return key
})

// newKey makes a private key of a kind: "RSA", a curve, or "Ed25519".
func newKey(t testing.TB, kind string) crypto.Signer {
	t.Helper()
	var key crypto.Signer
	var err error
	switch kind {
	case "RSA":
		return testRSA()
	case "Ed25519":
		_, key, err = ed25519.GenerateKey(rand.Reader)
	default:
		curves := map[string]elliptic.Curve{"P-224": elliptic.P224(), "P-256": elliptic.P256(), "P-384": elliptic.P384(), "P-521": elliptic.P521()}
		key, err = ecdsa.GenerateKey(curves[kind], rand.Reader)
	}
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// toPEM writes a private key as PKCS #8.
func toPEM(t testing.TB, key any) string {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

func pemKey(t testing.TB, kind string) string { return toPEM(t, newKey(t, kind)) }

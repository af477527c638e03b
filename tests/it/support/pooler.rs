//! A connection pooler that silently drops the startup settings of a session.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use url::Url;

/// Starts a pooler that drops settings, and returns the URL of the database through it.
pub async fn pooler_without_settings(url: &str) -> String {
    let mut url: Url = url.parse().unwrap();
    let target = SocketAddr::from(([127, 0, 0, 1], url.port().expect("a port")));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_query(Some("sslmode=disable"));
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, target));
        }
    });
    url.into()
}

async fn serve(mut client: TcpStream, target: SocketAddr) -> std::io::Result<()> {
    let mut server = TcpStream::connect(target).await?;
    let length = client.read_u32().await?;
    let mut startup = vec![0; usize::try_from(length).expect("a length") - 4];
    client.read_exact(&mut startup).await?;
    let (version, parameters) = startup.split_at(4);
    let fields: Vec<&[u8]> = parameters.split(|byte| *byte == 0).collect();
    let mut forwarded = version.to_vec();
    for pair in fields.chunks_exact(2).filter(|pair| !pair[0].is_empty() && pair[0] != b"options") {
        forwarded.extend([pair[0], b"\0", pair[1], b"\0"].concat());
    }
    forwarded.push(0);
    server.write_u32(u32::try_from(forwarded.len() + 4).expect("a length")).await?;
    server.write_all(&forwarded).await?;
    copy_bidirectional(&mut client, &mut server).await.map(drop)
}
